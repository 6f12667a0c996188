use super::*;
use std::time::Instant as Clock;

fn sh(script: &str) -> Cmd {
    Cmd::new("sh").arg("-c").arg(script)
}

/// So long a shell may take on a busy machine until its traps are set.
const SET: Duration = Duration::from_secs(2);

/// Run until the command has made this file, and give it up then.
async fn give_up_at(ready: &std::path::Path, system: &System, cmd: Cmd) {
    let made = async {
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        ended = system.run(cmd) => panic!("{ended:?}"),
        made = timeout(Duration::from_secs(20), made) => made.unwrap(),
    }
}

#[tokio::test]
async fn the_environment_is_ours() {
    let output = System::new().run(Cmd::new("env")).await.unwrap();
    let names: Vec<_> = output
        .stdout
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    assert!(
        names.contains(&"PATH") && output.stdout.contains("LC_ALL=C\n"),
        "{names:?}"
    );
    for ours in ["MKE2FS_CONFIG", "E2FSCK_CONFIG"] {
        assert!(names.contains(&ours), "{ours}: {names:?}");
    }
    assert!(
        !names.contains(&"HOME") && !names.contains(&"CARGO"),
        "{names:?}"
    );
}

#[tokio::test]
async fn stdin_is_given_and_otherwise_empty() {
    let given = System::new()
        .run(Cmd::new("cat").stdin(b"key".to_vec()))
        .await
        .unwrap();
    assert_eq!(given.stdout, "key");
    assert_eq!(System::new().run(Cmd::new("cat")).await.unwrap().stdout, "");
}

#[tokio::test]
async fn failures_keep_code_and_stderr() {
    let error = System::new()
        .run(sh("echo why >&2; exit 7"))
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.stderr()), (Some(7), "why\n"));
    let error = System::new().run(sh("kill -9 $$")).await.unwrap_err();
    assert!(error.to_string().contains("ended by a signal"), "{error}");
}

#[tokio::test]
async fn a_missing_program_names_its_package() {
    let error = System::new().run(Cmd::new("lvnothing")).await.unwrap_err();
    assert!(matches!(error, CmdError::Missing { ref package, .. } if package == "lvm2"));
}

#[tokio::test]
async fn a_time_out_ends_gently_and_with_the_children() {
    let dir = tempfile::tempdir().unwrap();
    let (note, begun) = (dir.path().join("note"), Clock::now());
    let script = format!(
        "trap 'echo left > {}; exit 0' TERM; sleep 60 & wait",
        note.display()
    );
    let error = System::new().run(sh(&script).timeout(SET).spared()).await;
    assert!(matches!(error, Err(CmdError::TimedOut { .. })), "{error:?}");
    assert_eq!(std::fs::read_to_string(note).unwrap(), "left\n");
    // The child would sleep for 60 s.
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_deaf_command_is_killed_after_the_grace() {
    let begun = Clock::now();
    let deaf = sh("trap '' TERM; while :; do sleep 1; done").timeout(SET);
    assert!(matches!(
        System::new().run(deaf).await,
        Err(CmdError::TimedOut { .. })
    ));
    assert!(
        (SET + GRACE..Duration::from_secs(30)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn giving_up_ends_the_command_gently() {
    let dir = tempfile::tempdir().unwrap();
    let (note, ready) = (dir.path().join("note"), dir.path().join("ready"));
    let script = format!(
        "trap 'echo left > {}; exit 0' TERM; echo > {}; sleep 60 & wait",
        note.display(),
        ready.display()
    );
    give_up_at(&ready, &System::new(), sh(&script)).await;
    for _ in 0..400 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if note.exists() {
            return;
        }
    }
    panic!("the command was not told to end");
}

#[tokio::test]
async fn a_spared_command_is_told_to_end_and_never_killed() {
    let dir = tempfile::tempdir().unwrap();
    let note = dir.path().join("note");
    // Longer than the grace: LVM between suspend and resume.
    let script = format!(
        "trap 'sleep 3; echo resumed > {}; exit 0' TERM; sleep 60 & wait",
        note.display()
    );
    let error = System::new().run(sh(&script).timeout(SET).spared()).await;
    assert!(matches!(error, Err(CmdError::TimedOut { .. })), "{error:?}");
    assert_eq!(std::fs::read_to_string(note).unwrap(), "resumed\n");
}

#[tokio::test]
async fn an_undisturbed_command_gets_no_signal_and_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (told, done) = (dir.path().join("told"), dir.path().join("done"));
    let script = format!(
        "trap 'echo > {}' TERM; sleep 1; sleep 1; echo > {}",
        told.display(),
        done.display()
    );
    let slow = || {
        sh(&script)
            .timeout(Duration::from_millis(100))
            .undisturbed()
    };
    let system = System::new();
    system.run(slow()).await.unwrap();
    assert!(done.exists() && !told.exists());
    std::fs::remove_file(&done).unwrap();
    let gave_up = timeout(Duration::from_millis(300), system.run(slow())).await;
    assert!(gave_up.is_err());
    let deadline = Clock::now() + Duration::from_secs(20);
    while !done.exists() && Clock::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(done.exists() && !told.exists());
}

#[test]
fn a_command_outlives_the_runtime_and_writes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, done) = (dir.path().join("begun"), dir.path().join("done"));
    let script = format!(
        "echo > {}; sleep 1; echo out; echo err >&2; echo > {}",
        begun.display(),
        done.display()
    );
    let appears = |path: &std::path::Path| {
        let deadline = Clock::now() + Duration::from_secs(20);
        while !path.exists() && Clock::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        path.exists()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.spawn(async move { System::new().run(sh(&script)).await });
    assert!(appears(&begun));
    runtime.shutdown_timeout(Duration::from_millis(10));
    assert!(appears(&done), "it was ended with the runtime");
}

#[tokio::test]
async fn a_daemon_left_behind_does_not_hold_the_caller() {
    let begun = Clock::now();
    let output = System::new()
        .run(sh("setsid sleep 60 & echo $!"))
        .await
        .unwrap();
    let took = begun.elapsed();
    let left = Pid::from_raw(output.stdout.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(left, Signal::KILL).expect("it was left behind");
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[tokio::test]
async fn endless_output_is_refused_not_kept() {
    let error = System::new()
        .run(sh("head -c 20000000 /dev/zero"))
        .await
        .unwrap_err();
    assert!(matches!(error, CmdError::Io { .. }), "{error:?}");
}

#[tokio::test]
async fn a_command_has_its_lock_as_its_empty_stdin_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let system = System::with_locks(Locks::new(dir.path()));
    let locked = |cmd: Cmd| cmd.locked("change@vg", Duration::ZERO);
    let output = system
        .run(locked(Cmd::new("readlink").arg("/proc/self/fd/0")))
        .await
        .unwrap();
    let path = dir.path().join("change@vg");
    assert_eq!(output.stdout.trim(), path.to_str().unwrap());
    assert!(!path.exists());
    assert_eq!(
        system.run(locked(Cmd::new("cat"))).await.unwrap().stdout,
        ""
    );
    let output = system.run(locked(Cmd::new("lvm").arg("version"))).await;
    let said = output.unwrap().stderr;
    assert!(!said.contains("leaked"), "{said}");
}

#[tokio::test]
async fn a_command_left_behind_holds_up_what_it_works_on_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let script = format!("trap '' TERM; echo > {}; sleep 30", ready.display());
    let system = || System::with_locks(Locks::new(dir.path()));
    // Told to end and deaf to it, and forgotten with its runtime, as by a daemon that is killed.
    let runtime = std::thread::spawn({
        let system = system();
        move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let deaf = sh(&script).locked("change@vg", Duration::ZERO);
            runtime.block_on(give_up_at(&ready, &system, deaf));
            runtime.shutdown_background();
        }
    });
    runtime.join().unwrap();
    let next = |name: &str| {
        let cmd = Cmd::new("true").locked(name, Duration::from_millis(100));
        async move { system().run(cmd).await }
    };
    let refused = next("change@vg").await;
    next("change@other").await.unwrap();
    let Err(CmdError::Busy { by, .. }) = refused else {
        panic!("{refused:?}")
    };
    // The shell and what it started.
    assert!(by.iter().any(|h| h.comm == "sh"), "{by:?}");
    for holder in by {
        let pid = Pid::from_raw(i32::try_from(holder.pid).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let again = Cmd::new("true").locked("change@vg", Duration::from_secs(10));
    system().run(again).await.unwrap();
}
