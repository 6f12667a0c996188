//! What a guest prints, line by line, while it runs.

use std::io::{BufRead, BufReader, PipeReader};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub(super) type OnLine = Box<dyn FnMut(&str) + Send>;

/// How much of the console an error shows.
const TAIL_LINES: usize = 60;

/// How long to wait for the console's end once the guest is dead.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// The lines of a guest's console; a clone shows the same ones.
#[derive(Debug, Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
    reader: Option<JoinHandle<()>>,
}

impl Console {
    pub(super) fn follow(pipe: PipeReader, mut on_line: Option<OnLine>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        let reader = std::thread::Builder::new()
            .name("guest-console".to_owned())
            .spawn(move || {
                let mut pipe = BufReader::new(pipe);
                let mut bytes = Vec::new();
                while matches!(pipe.read_until(b'\n', &mut bytes), Ok(read) if read > 0) {
                    // A terminal ends its lines with CR LF.
                    let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                    bytes.clear();
                    if let Some(on_line) = &mut on_line {
                        on_line(&line);
                    }
                    writer.lock().lines.push(line);
                    writer.changed.notify_all();
                }
                writer.lock().ended = true;
                writer.changed.notify_all();
            })
            .context("failed to start the console's thread")?;
        shared.lock().reader = Some(reader);
        Ok(Self { shared })
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.shared.lock().lines.clone()
    }

    /// The last lines, with a heading, for an error's text.
    pub fn tail(&self) -> String {
        let state = self.shared.lock();
        let skipped = state.lines.len().saturating_sub(TAIL_LINES);
        let mut text = format!("console ({skipped} lines before these):");
        for line in &state.lines[skipped..] {
            text.push_str("\n  | ");
            text.push_str(line);
        }
        text
    }

    /// The first line with `text` in it; `None` when the time is up or the console has ended.
    pub(super) fn wait_for(&self, text: &str, timeout: Duration) -> Option<String> {
        let deadline = Instant::now() + timeout;
        let mut seen = 0;
        let mut state = self.shared.lock();
        loop {
            if let Some(line) = state.lines[seen..].iter().find(|line| line.contains(text)) {
                return Some(line.clone());
            }
            seen = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self.shared.wait(state, left);
        }
    }

    /// Waits for the last line of a guest that is dead.
    ///
    /// With a limit: a process the guest left behind may hold the pipe open, and a test must
    /// rather lose a line than hang.
    pub(super) fn finish(&self) {
        let deadline = Instant::now() + FINISH_TIMEOUT;
        let mut state = self.shared.lock();
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.shared.wait(state, left);
        }
        if let Some(reader) = state.reader.take() {
            drop(state);
            // It has nothing left to do; should the callback have panicked, the text is out.
            let _ = reader.join();
        }
    }
}

impl Shared {
    /// The lines are whole after every step, so a panic elsewhere cannot have spoilt them.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        self.changed
            .wait_timeout(state, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}
