//! A runner that follows a script: it checks each argv and answers from a recorded transcript.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::{Cmd, CmdError, Output, Runner};

/// Calls in the order they must come; a missing, surplus or different call panics.
///
/// In an expected argv the word `*` stands for any one argument.
#[derive(Debug, Default)]
pub struct Script {
    steps: Mutex<VecDeque<Step>>,
}

#[derive(Debug)]
struct Step {
    argv: Vec<String>,
    stdin: Option<Vec<u8>>,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Exit {
        code: i32,
        stdout: String,
        stderr: String,
    },
    Missing,
    TimedOut,
}

impl Script {
    /// A script that expects nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Expects `argv`, answers success with `stdout`.
    #[must_use]
    pub fn ok(self, argv: &[&str], stdout: &str) -> Self {
        self.exit(argv, 0, stdout, "")
    }

    /// Expects `argv`, answers exit code `code` with `stderr`.
    #[must_use]
    pub fn fails(self, argv: &[&str], code: i32, stderr: &str) -> Self {
        self.exit(argv, code, "", stderr)
    }

    /// Expects `argv`, answers with all that a command can say.
    #[must_use]
    pub fn exit(self, argv: &[&str], code: i32, stdout: &str, stderr: &str) -> Self {
        let answer = Answer::Exit {
            code,
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        self.step(argv.iter().map(ToString::to_string).collect(), answer)
    }

    /// Expects `argv`, answers that the program is not installed.
    #[must_use]
    pub fn missing(self, argv: &[&str]) -> Self {
        self.step(
            argv.iter().map(ToString::to_string).collect(),
            Answer::Missing,
        )
    }

    /// Expects `argv`, answers that it ran too long.
    #[must_use]
    pub fn times_out(self, argv: &[&str]) -> Self {
        self.step(
            argv.iter().map(ToString::to_string).collect(),
            Answer::TimedOut,
        )
    }

    /// The last expected call must bring exactly these bytes on stdin (without this: none).
    ///
    /// # Panics
    /// If no call is expected yet.
    #[must_use]
    pub fn with_stdin(self, bytes: &[u8]) -> Self {
        let mut steps = self.lock();
        steps
            .back_mut()
            .expect("with_stdin() follows an expected call")
            .stdin = Some(bytes.to_vec());
        drop(steps);
        self
    }

    /// Appends the calls of a transcript file.
    ///
    /// `$ lvs --units b` begins a call (words are split at spaces; 'single quotes' keep them),
    /// `! text` is a line of its stderr, `? 5` its exit code, every other line its stdout.
    /// Lines before the first `$` are remarks.
    ///
    /// # Panics
    /// If the file cannot be read.
    #[must_use]
    pub fn transcript(self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        match std::fs::read_to_string(path) {
            Ok(text) => parse(&text)
                .into_iter()
                .fold(self, |script, (argv, answer)| script.step(argv, answer)),
            Err(error) => panic!("failed to read the transcript {}: {error}", path.display()),
        }
    }

    /// Panics if calls are missing; dropping the script does the same.
    ///
    /// # Panics
    /// If calls are missing.
    pub fn finish(&self) {
        let steps = self.lock();
        let missing: Vec<_> = steps.iter().map(|step| step.argv.join(" ")).collect();
        drop(steps);
        assert!(missing.is_empty(), "calls that never came: {missing:#?}");
    }

    fn step(self, argv: Vec<String>, answer: Answer) -> Self {
        self.lock().push_back(Step {
            argv,
            stdin: None,
            answer,
        });
        self
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Step>> {
        self.steps
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.finish();
        }
    }
}

#[async_trait]
impl Runner for Script {
    async fn run(&self, cmd: Cmd) -> Result<Output, CmdError> {
        let argv = cmd.argv();
        let Some(step) = self.lock().pop_front() else {
            panic!("a call the script does not expect: {}", argv.join(" "));
        };
        assert!(
            matches(&step.argv, &argv),
            "expected {:?}, got {argv:?}",
            step.argv
        );
        assert_eq!(step.stdin, cmd.stdin, "stdin of {}", argv.join(" "));
        match step.answer {
            Answer::Exit {
                code: 0,
                stdout,
                stderr,
            } => Ok(Output { stdout, stderr }),
            Answer::Exit { code, stderr, .. } => Err(CmdError::Failed {
                argv,
                code: Some(code),
                stderr,
            }),
            Answer::Missing => {
                let program = argv[0].clone();
                Err(CmdError::Missing {
                    package: super::package_of(&program).into(),
                    program,
                })
            }
            Answer::TimedOut => Err(CmdError::TimedOut {
                argv,
                after: Duration::ZERO,
            }),
        }
    }
}

fn matches(expected: &[String], argv: &[String]) -> bool {
    expected.len() == argv.len()
        && expected
            .iter()
            .zip(argv)
            .all(|(want, have)| want == "*" || want == have)
}

fn parse(text: &str) -> Vec<(Vec<String>, Answer)> {
    let mut calls: Vec<(Vec<String>, Answer)> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            let answer = Answer::Exit {
                code: 0,
                stdout: String::new(),
                stderr: String::new(),
            };
            calls.push((words(command), answer));
        } else if let Some((
            _,
            Answer::Exit {
                code,
                stdout,
                stderr,
            },
        )) = calls.last_mut()
        {
            if let Some(said) = line.strip_prefix("! ") {
                stderr.push_str(said);
                stderr.push('\n');
            } else if let Some(number) = line.strip_prefix("? ") {
                *code = number
                    .trim()
                    .parse()
                    .unwrap_or_else(|_| panic!("no exit code: {line}"));
            } else {
                stdout.push_str(line);
                stdout.push('\n');
            }
        }
    }
    calls
}

fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut begun) = (String::new(), false, false);
    for letter in command.chars() {
        match letter {
            '\'' => (quoted, begun) = (!quoted, true),
            ' ' if !quoted => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => {
                word.push(other);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_in_order_and_by_exit_code() {
        let script = Script::new()
            .ok(&["lvs", "*"], "one\n")
            .fails(&["lvcreate"], 5, "no space")
            .missing(&["mkfs.xfs"]);
        let output = script.run(Cmd::new("lvs").arg("anything")).await.unwrap();
        assert_eq!(output.stdout, "one\n");
        assert_eq!(
            script.run(Cmd::new("lvcreate")).await.unwrap_err().code(),
            Some(5)
        );
        let missing = script.run(Cmd::new("mkfs.xfs")).await.unwrap_err();
        assert!(missing.to_string().contains("xfsprogs"), "{missing}");
        script.finish();
    }

    #[tokio::test]
    #[should_panic(expected = "expected [\"lvs\"], got [\"lvremove\"]")]
    async fn a_different_call_panics() {
        let _ = Script::new()
            .ok(&["lvs"], "")
            .run(Cmd::new("lvremove"))
            .await;
    }

    #[test]
    #[should_panic(expected = "calls that never came")]
    fn a_missing_call_panics_in_drop() {
        drop(Script::new().ok(&["lvs"], ""));
    }

    #[tokio::test]
    #[should_panic(expected = "stdin of cryptsetup")]
    async fn stdin_is_checked() {
        let script = Script::new().ok(&["cryptsetup"], "").with_stdin(b"key");
        let _ = script
            .run(Cmd::new("cryptsetup").stdin(b"other".to_vec()))
            .await;
    }

    #[test]
    fn transcripts_keep_quotes_stderr_and_exit_code() {
        let calls = parse("remark\n$ lvs -S 'a b' ''\n  row\n! odd\n? 5\n$ vgs\n");
        assert_eq!(calls[0].0, ["lvs", "-S", "a b", ""]);
        let Answer::Exit {
            code,
            stdout,
            stderr,
        } = &calls[0].1
        else {
            panic!()
        };
        assert_eq!(
            (*code, stdout.as_str(), stderr.as_str()),
            (5, "  row\n", "odd\n")
        );
        assert_eq!(calls[1].0, ["vgs"]);
    }
}
