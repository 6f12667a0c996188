//! Named points where a test may kill the process, as a power cut would.

/// Dies here with SIGKILL if `STOWAGE_FAILPOINT` asks for it.
///
/// In a release this does nothing and costs nothing; a build with debug assertions listens to its
/// environment:
/// `STOWAGE_FAILPOINT=name` dies at the first hit of `name`, `name#3` at the third;
/// `STOWAGE_FAILPOINT_FILE=path` does the same for the name in that file once there is one, so that
/// a test can let a running process do its setting up and then choose where it dies;
/// `STOWAGE_FAILPOINT_LOG=path` appends each hit's name and a newline to `path`, so that a test can
/// first list the points a scenario reaches and then die at each in turn.
#[inline]
pub fn hit(name: &'static str) {
    #[cfg(debug_assertions)]
    enabled::hit(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod enabled {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Hits so far of the one point that is named; a process is told of one only.
    static HITS: AtomicU64 = AtomicU64::new(0);

    pub(super) fn hit(name: &'static str) {
        if let Some(log) = std::env::var_os("STOWAGE_FAILPOINT_LOG") {
            let opened = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(&log);
            // A lost line would make a test skip a point and pass: better to fail aloud.
            opened
                .and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()))
                .unwrap_or_else(|error| panic!("failed to append to {}: {error}", log.display()));
        }
        let told = || std::fs::read_to_string(std::env::var_os("STOWAGE_FAILPOINT_FILE")?).ok();
        let Some(wanted) = std::env::var("STOWAGE_FAILPOINT").ok().or_else(told) else {
            return;
        };
        let (wanted, nth) = match wanted.split_once('#') {
            Some((wanted, nth)) => (wanted, nth.parse().unwrap_or(1)),
            None => (wanted.as_str(), 1),
        };
        if wanted == name && HITS.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            // SIGKILL to oneself is delivered before kill(2) returns to any user code of the
            // calling thread; abort() only satisfies a kernel that thinks otherwise.
            std::process::abort();
        }
    }
}

#[cfg(test)]
#[cfg(debug_assertions)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::Command;

    /// Runs in a child of the two tests below; alone it hits its points and passes.
    #[test]
    fn child() {
        super::hit("first");
        super::hit("second");
        super::hit("first");
        if let Some(path) = std::env::var_os("FAILPOINT_SURVIVED") {
            std::fs::write(path, "yes").unwrap();
        }
    }

    fn run(point: &str) -> (Option<i32>, String, bool) {
        run_told(|command, _| {
            command.env("STOWAGE_FAILPOINT", point);
        })
    }

    fn run_told(tell: impl Fn(&mut Command, &Path)) -> (Option<i32>, String, bool) {
        let dir = tempfile::tempdir().unwrap();
        let (log, survived) = (dir.path().join("log"), dir.path().join("survived"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        tell(&mut command, dir.path());
        let status = command
            .args(["failpoint::tests::child", "--exact", "--test-threads=1"])
            .env("STOWAGE_FAILPOINT_LOG", &log)
            .env("FAILPOINT_SURVIVED", &survived)
            .output()
            .unwrap()
            .status;
        (
            status.signal(),
            std::fs::read_to_string(log).unwrap(),
            survived.exists(),
        )
    }

    #[test]
    fn dies_at_the_named_hit_and_logs_the_way_there() {
        assert_eq!(run("second"), (Some(9), "first\nsecond\n".into(), false));
        assert_eq!(
            run("first#2"),
            (Some(9), "first\nsecond\nfirst\n".into(), false)
        );
    }

    #[test]
    fn an_unreached_point_changes_nothing() {
        assert_eq!(
            run("first#3"),
            (None, "first\nsecond\nfirst\n".into(), true)
        );
    }

    #[test]
    fn a_file_names_the_point_as_well_once_it_is_there() {
        let armed = run_told(|command, dir| {
            std::fs::write(dir.join("told"), "first#2").unwrap();
            command.env("STOWAGE_FAILPOINT_FILE", dir.join("told"));
        });
        assert_eq!(armed, (Some(9), "first\nsecond\nfirst\n".into(), false));
        let unarmed = run_told(|command, dir| {
            command.env("STOWAGE_FAILPOINT_FILE", dir.join("told"));
        });
        assert_eq!(unarmed, (None, "first\nsecond\nfirst\n".into(), true));
    }
}
