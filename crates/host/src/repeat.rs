//! What goes wrong again and again is told when it is new, and then at growing intervals: what is
//! tried every few seconds on a disk that is gone for days must not fill the log, which may lie on
//! the last disk that works.

use std::time::Duration;

use tokio::time::Instant;

/// For how long nothing is said of what was told, doubled each time, and at most.
const PAUSE: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(3600);

/// What was not seen for so long is new. Longer than any of those who try again waits.
const OVER: Duration = Duration::from_secs(300);

/// How many troubles are told apart at a time; others count as the first of them.
const APART: usize = 8;

/// When to tell of the troubles of one thing that is tried again and again.
#[derive(Debug, Default)]
pub struct Repeat(Vec<Told>);

#[derive(Debug)]
struct Told {
    what: String,
    seen: Instant,
    pause: Duration,
    next: Instant,
}

impl Repeat {
    /// Whether to tell now that this is wrong.
    pub fn is_due(&mut self, what: &str) -> bool {
        let now = Instant::now();
        self.0.retain(|told| now < told.seen + OVER);
        // Another number in it, a time or a process id, makes it no other trouble.
        let what: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
        let known = self.0.iter().position(|told| told.what == what);
        let all = self.0.len();
        let Some(told) = known.or_else(|| (all >= APART).then_some(0)) else {
            self.0.push(Told {
                what,
                seen: now,
                pause: PAUSE,
                next: now + PAUSE,
            });
            return true;
        };
        let told = &mut self.0[told];
        told.seen = now;
        if now < told.next {
            return false;
        }
        told.pause = (told.pause * 2).min(LONGEST);
        told.next = now + told.pause;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often something is told that is tried this often for this long.
    async fn told(every: Duration, long: Duration, what: impl Fn(u32) -> String) -> u32 {
        let mut repeat = Repeat::default();
        let tries = u32::try_from(long.as_millis() / every.as_millis()).unwrap();
        let mut told = 0;
        for n in 0..tries {
            told += u32::from(repeat.is_due(&what(n)));
            tokio::time::sleep(every).await;
        }
        told
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_wrong_is_told_at_growing_intervals() {
        let every = Duration::from_secs(3);
        let hour = Duration::from_secs(3600);
        let same = |_| "the disk is gone".to_owned();
        assert_eq!(told(every, hour, same).await, 7);
        assert!(told(every, 24 * hour, same).await <= 30);
        let often = Duration::from_millis(200);
        assert_eq!(told(often, hour, same).await, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn another_trouble_is_told_at_once_and_another_number_is_none() {
        let every = Duration::from_secs(3);
        let minute = Duration::from_secs(60);
        assert_eq!(told(every, minute, |n| format!("hangs for {n} s")).await, 2);
        let turns = |n| ["no disk", "no group"][n as usize % 2].to_owned();
        assert_eq!(told(every, minute, turns).await, 4);
        let many = |n| "x".repeat(n as usize % 100);
        // Of 1200.
        assert!(told(every, 60 * minute, many).await < 120);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_well_for_a_while_is_new_when_it_comes_again() {
        let mut repeat = Repeat::default();
        assert!(repeat.is_due("gone"));
        for _ in 0..1200 {
            tokio::time::sleep(Duration::from_secs(3)).await;
            repeat.is_due("gone");
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(!repeat.is_due("gone"));
        tokio::time::sleep(OVER).await;
        assert!(repeat.is_due("gone"));
    }
}
