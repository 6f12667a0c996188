use super::*;

const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="4" disabled="1" errors="0" failures="1" time="0.1">
  <testsuite name="CSI Driver Test Suite" package="/x" tests="4">
    <properties><property name="SuiteSucceeded" value="false"></property></properties>
    <testcase name="[BeforeSuite]" classname="s" status="passed" time="0"></testcase>
    <testcase name="[It] Identity Service Probe should &#34;work&#34;" classname="s" status="passed" time="0"></testcase>
    <testcase name="[It] Node Service should work" classname="s" status="failed" time="0.1">
      <failure message="Expected &lt;nil&gt;" type="failed">[FAILED] at node.go:1</failure>
      <system-err>log &gt; log</system-err>
    </testcase>
    <testcase name="[It] Controller Service [Controller Server] volume lifecycle should work" classname="s" status="skipped" time="0"><skipped message="skipped - no"></skipped></testcase>
    <testcase name="[It] Broken" classname="s" status="timedout" time="0"></testcase>
  </testsuite>
</testsuites>"#;

#[test]
fn every_spec_is_counted_by_its_status() {
    let report = junit::parse(REPORT).unwrap();
    let failure = |name: &str, message: &str| Failure {
        name: name.into(),
        message: message.into(),
    };
    assert_eq!(
        report,
        Report {
            passed: 1,
            failed: vec![
                failure("[It] Node Service should work", "Expected <nil>"),
                failure("[It] Broken", "timedout"),
            ],
            skipped: vec![
                "[It] Controller Service [Controller Server] volume lifecycle should work".into(),
            ],
            pending: vec![],
        }
    );
    assert_eq!(report.run(), 3);
    assert!(junit::parse("<testsuites></testsuites>").is_err());
}

fn perfect() -> Report {
    Report {
        passed: EXPECTED_PASSED,
        failed: vec![],
        skipped: vec![format!("{}should fail", ATTACH_GROUPS[0]); ATTACH_SPECS],
        pending: vec![PENDING_SPEC.to_owned()],
    }
}

#[test]
fn skipping_what_needs_attach_is_fine() {
    perfect().check().unwrap();
}

#[test]
fn any_other_skip_fails_the_check() {
    let mut report = perfect();
    report
        .skipped
        .push("[It] ExpandVolume [Controller Server] should work".to_owned());
    assert!(
        report
            .check()
            .unwrap_err()
            .to_string()
            .contains("ExpandVolume")
    );
}

#[test]
fn a_spec_that_vanished_fails_the_check() {
    let report = Report {
        passed: EXPECTED_PASSED - 1,
        ..perfect()
    };
    assert!(
        report
            .check()
            .unwrap_err()
            .to_string()
            .contains("91 specs passed instead of 92")
    );
}

#[test]
fn a_failed_spec_fails_the_check_with_its_message() {
    let mut report = perfect();
    report.failed.push(Failure {
        name: "[It] X".to_owned(),
        message: "boom".to_owned(),
    });
    let text = report.check().unwrap_err().to_string();
    assert!(text.contains("[It] X") && text.contains("boom"), "{text}");
}

#[test]
fn parameters_are_quoted_strings() {
    assert_eq!(
        yaml(&[("iops".to_owned(), "1000".to_owned())]),
        "\"iops\": \"1000\"\n"
    );
}
