//! A guest that runs one suite after another: booting takes seconds.
//!
//! It waits for scripts, named `1`, `2` and so on, in a directory that it shares with the machine.
//! After a suite that went well it must look as it did before: no device of device mapper's, no
//! loop device, no other mount; then its disks are blanked and the next suite may come. In all
//! other cases it is given up, and the next suite gets a fresh one.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use stowage_testkit::{Guest, scratch};
use tempfile::TempDir;

use super::suites::Needs;

/// Waits for the next script and runs it in a shell of its own, for ever.
const LOOP: &str = r#"
n=1
mounts=$(cut -d ' ' -f 2 /proc/mounts | sort)
like_new() {
    ! ls -d /sys/block/dm-* >/dev/null 2>&1 || return 1
    [ -z "$(losetup -n -O NAME -l)" ] || return 1
    [ "$mounts" = "$(cut -d ' ' -f 2 /proc/mounts | sort)" ] || return 1
    for disk in $(echo "$STOWAGE_TEST_DISKS" | tr , ' '); do
        blkdiscard -f "$disk" || return 1
    done
}
while :; do
    while [ ! -e "$1/$n" ]; do sleep 0.1; done
    sh "$1/$n"
    status=$?
    state=used
    if [ "$status" = 0 ] && like_new 2>/dev/null; then state=clean; fi
    echo "@suite $n $status $state ."
    n=$((n + 1))
done
"#;

/// Who hears the guest's lines at the moment.
type Listener = Arc<Mutex<Box<dyn FnMut(&str) + Send>>>;

pub(super) struct Room {
    needs: &'static Needs,
    guest: Guest,
    scripts: TempDir,
    listener: Listener,
    served: usize,
}

/// What to run in it.
pub(super) struct Visit<'a> {
    pub(super) argv: &'a [String],
    pub(super) dir: &'a Path,
    /// Where logs go, on the machine.
    pub(super) logs: &'a Path,
    pub(super) limit: Duration,
}

impl Room {
    fn open(needs: &'static Needs, logs: &Path) -> Result<Self> {
        let scripts = scratch::dir("scripts")?;
        let listener: Listener = Arc::new(Mutex::new(Box::new(|_: &str| {})));
        let heard = Arc::clone(&listener);
        let mut guest = Guest::builder()
            .memory(needs.memory)
            .visible(scripts.path())
            .visible(logs)
            .on_line(move |line| {
                let mut listener = heard.lock().unwrap_or_else(PoisonError::into_inner);
                listener(line);
            });
        for module in needs.modules {
            guest = guest.module(*module);
        }
        for bytes in needs.disks {
            guest = guest.disk(*bytes);
        }
        let directory = scripts.path().display().to_string();
        let guest = guest.spawn(["sh", "-c", LOOP, "suites", &directory])?;
        Ok(Self {
            needs,
            guest,
            scripts,
            listener,
            served: 0,
        })
    }

    /// Runs it in the guest that is there, if that has what is needed, or in a fresh one; whether
    /// it ended with status 0. A guest that can serve again is there afterwards.
    pub(super) fn run(
        room: &mut Option<Self>,
        needs: &'static Needs,
        visit: &Visit<'_>,
        on_line: impl FnMut(&str) + Send + 'static,
    ) -> Result<bool> {
        let kept = room.take().filter(|room| room.needs == needs);
        let mut here = match kept {
            Some(room) => room,
            // All logs lie beside each other.
            None => Self::open(needs, visit.logs.parent().unwrap_or(visit.logs))?,
        };
        *here.listener.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(on_line);
        let (good, clean) = here.serve(visit)?;
        if clean {
            *room = Some(here);
        }
        Ok(good)
    }

    fn serve(&mut self, visit: &Visit<'_>) -> Result<(bool, bool)> {
        self.served += 1;
        let words: Vec<String> = visit.argv.iter().map(|word| quoted(word)).collect();
        let script = format!(
            "cd {} && RUST_BACKTRACE=1 exec {}\n",
            quoted(&visit.dir.display().to_string()),
            words.join(" ")
        );
        let name = self.served.to_string();
        let beside = self.scripts.path().join("next");
        std::fs::write(&beside, script)
            .and_then(|()| std::fs::rename(&beside, self.scripts.path().join(&name)))
            .context("failed to hand the guest its script")?;
        let line = self
            .guest
            .wait_for_line(&format!("@suite {name} "), visit.limit)?;
        // It may follow a line that somebody has not ended.
        let (_, told) = line.split_once("@suite ").context("no mark in the line")?;
        let mut words = told.split(' ').skip(1);
        let good = words.next() == Some("0");
        Ok((good, good && words.next() == Some("clean")))
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
