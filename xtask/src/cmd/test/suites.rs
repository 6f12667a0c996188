//! Every suite there is, in one table. What cargo builds and is not here, and what is here and is
//! not built, fails the run: a suite that nobody runs would be taken for one that passes.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cell::Cell;

/// One row: a test program, the doc tests, or a cell of the csi-sanity matrix.
#[derive(Debug)]
pub(super) struct Suite {
    /// `workspace-CRATE` for unit tests, `CRATE-TARGET` for others, `sanity-POOL-ACCESS` for cells.
    pub(super) name: &'static str,
    pub(super) place: Place,
    /// What it takes on two quiet cores beside another suite, and some. Over it is told, three
    /// times as long fails: machines are noisy.
    pub(super) budget: Duration,
    pub(super) ignored: Ignored,
    /// Whether it gets a second try when it fails. Not where chance chooses what is cut off: the
    /// second try chooses otherwise, and would excuse a lost byte.
    pub(super) again: bool,
    /// Whether it mostly waits for time to pass: it then runs beside those that fill the cores.
    pub(super) waits: bool,
}

/// Where a suite runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On the machine, beside others, with mounts of its own.
    Host,
    /// On the machine while nothing else runs: it measures, or looks at what all share (loop
    /// devices and the limits of block devices know no namespaces).
    Alone,
    /// In a guest.
    Guest(&'static Needs),
    /// On the machine beside others; all it does happens in guests that it boots itself.
    Boots,
    /// The examples in the documentation, by cargo.
    Docs,
}

/// What a guest must have for a suite.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// Beyond those every guest has.
    pub(super) modules: &'static [&'static str],
    /// Their sizes; sparse, they cost what is written to them.
    pub(super) disks: &'static [u64],
    pub(super) memory: &'static str,
}

/// Tests that bear `#[ignore]`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ignored {
    /// There must be none.
    None,
    /// They run with the others; the mark is for a plain `cargo test`, which lacks what they need.
    Run,
    /// Exactly these do not run; why is said at each.
    These(&'static [&'static str]),
}

/// A node with three disks.
const NODE: Needs = Needs {
    modules: &[],
    disks: &[2 << 30, 2 << 30, 2 << 30],
    memory: "2G",
};

/// A node with a disk that tells what it was told to keep, and a disk for that.
const LOGGED: Needs = Needs {
    modules: &["dm-log-writes"],
    disks: &[2 << 30, 2 << 30],
    memory: "2G",
};

const fn row(name: &'static str, place: Place, budget: u64) -> Suite {
    Suite {
        name,
        place,
        budget: Duration::from_secs(budget),
        ignored: Ignored::None,
        again: true,
        waits: false,
    }
}

/// Its first failure is the verdict.
const fn once(suite: Suite) -> Suite {
    Suite {
        again: false,
        ..suite
    }
}

const fn waiting(suite: Suite) -> Suite {
    Suite {
        waits: true,
        ..suite
    }
}

const fn ignoring(suite: Suite, ignored: Ignored) -> Suite {
    Suite { ignored, ..suite }
}

const GUEST: Place = Place::Guest(&NODE);

pub(super) const SUITES: &[Suite] = &[
    row("workspace-model", Place::Host, 15),
    waiting(row("workspace-host", Place::Host, 60)),
    row("workspace-pool", Place::Host, 60),
    row("workspace-node", Place::Host, 60),
    row("workspace-csi", Place::Host, 15),
    row("workspace-app", Place::Host, 30),
    row("workspace-testkit", Place::Host, 15),
    row("workspace-xtask", Place::Host, 15),
    row("workspace-docs", Place::Docs, 60),
    ignoring(row("csi-rpc", Place::Host, 60), Ignored::Run),
    waiting(row("app-host_badinput", Place::Host, 90)),
    waiting(once(row("app-host_crash", Place::Host, 240))),
    row("app-host_csi", Place::Host, 90),
    row("app-host_csi_rules", Place::Host, 60),
    row("app-host_daemon", Place::Host, 60),
    row("app-host_doctor", Place::Host, 45),
    waiting(row("app-host_full", Place::Host, 120)),
    row("app-host_lifecycle", Place::Host, 60),
    row("app-host_limits", Place::Alone, 140),
    row("app-host_stage", Place::Host, 60),
    waiting(row("app-host_unread", Place::Host, 60)),
    ignoring(
        row("app-host_upgrade", Place::Host, 60),
        Ignored::These(&["record"]),
    ),
    row("app-host_volumes", Place::Host, 90),
    once(row("app-guest_crash_thick", GUEST, 300)),
    once(row("app-guest_crash_thin", GUEST, 220)),
    waiting(row("app-guest_hung", GUEST, 240)),
    row("app-guest_limits", GUEST, 120),
    once(row("app-guest_power", Place::Guest(&LOGGED), 120)),
    ignoring(
        row("app-guest_upgrade", GUEST, 120),
        Ignored::These(&["record"]),
    ),
    row("app-guest_volumes", GUEST, 320),
    // Tried again as long as LVM is known to refuse new volumes after some cuts, until what was cut off is
    // removed (`pool/src/thin/stray`): such a boot fails without a byte lost.
    ignoring(
        row("app-boots_power", Place::Boots, 360),
        Ignored::These(&["guest_side"]),
    ),
    ignoring(
        row("pool-guest_lvm", GUEST, 260),
        Ignored::These(&["making", "copying", "changing", "removing"]),
    ),
    ignoring(
        row("pool-guest_thin", GUEST, 150),
        Ignored::These(&["making", "copying", "changing", "removing", "extending"]),
    ),
    row("testkit-guest_boots", Place::Boots, 45),
    row("sanity-file-mount", Place::Host, 60),
    row("sanity-file-block", Place::Host, 60),
    row("sanity-lvm-mount", GUEST, 90),
    row("sanity-lvm-block", GUEST, 90),
    row("sanity-thin-mount", GUEST, 60),
    row("sanity-thin-block", GUEST, 60),
];

impl Suite {
    /// The cell it is, if it is one.
    pub(super) fn cell(&self) -> Option<Cell> {
        Cell::all()
            .into_iter()
            .find(|cell| cell.to_string() == self.name)
    }

    /// Whether a program of cargo's is expected for it.
    pub(super) fn is_built(&self) -> bool {
        self.place != Place::Docs && self.cell().is_none()
    }
}

/// What the table and the build disagree about; `built` names all that was.
pub(super) fn disagreements(suites: &[Suite], built: &BTreeSet<String>) -> Vec<String> {
    let declared: Vec<&Suite> = suites.iter().filter(|suite| suite.is_built()).collect();
    let undeclared = built
        .iter()
        .filter(|name| !declared.iter().any(|suite| suite.name == *name))
        .map(|name| format!("{name} is in no row of xtask/src/cmd/test/suites.rs"));
    let unbuilt = declared
        .iter()
        .filter(|suite| !built.contains(suite.name))
        .map(|suite| format!("{} has a row and no test program", suite.name));
    let cells = Cell::all().into_iter().map(|cell| cell.to_string());
    let forgotten = cells
        .filter(|cell| !suites.iter().any(|suite| suite.name == cell))
        .map(|cell| format!("{cell} is in no row"));
    undeclared.chain(unbuilt).chain(forgotten).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_target_outside_the_table_and_a_row_without_target_are_told() {
        let all: Vec<&str> = SUITES
            .iter()
            .filter(|suite| suite.is_built())
            .map(|suite| suite.name)
            .collect();
        assert_eq!(disagreements(SUITES, &built(&all)), [""; 0]);
        let new = [&all[..], &["app-new_kind"]].concat();
        let told = disagreements(SUITES, &built(&new));
        assert!(
            told.len() == 1 && told[0].starts_with("app-new_kind"),
            "{told:?}"
        );
        let told = disagreements(SUITES, &built(&all[1..]));
        assert!(told.len() == 1 && told[0].starts_with(all[0]), "{told:?}");
        let told = disagreements(&SUITES[..SUITES.len() - 1], &built(&all));
        assert_eq!(told, ["sanity-thin-block is in no row"]);
    }

    #[test]
    fn no_name_is_given_twice() {
        let names: BTreeSet<&str> = SUITES.iter().map(|suite| suite.name).collect();
        assert_eq!(names.len(), SUITES.len());
    }
}
