//! The guests' newer kernel, see [`stowage_testkit::guest::kernel`]: from Debian's unstable, with the
//! C library it wants from stable, unpacked into a folder and never installed.
//!
//! Unstable moves: on any failure the guests go on with the kernel of the machine's own package,
//! and a line says so. Nothing here fails a setup.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use stowage_testkit::Guest;
use stowage_testkit::guest::kernel::{self, Kernel};
use stowage_testkit::requirement::find;

use crate::process;

/// Package and the release it comes from.
const KERNEL: (&str, &str) = ("user-mode-linux", "sid");
/// Debian 12's C library is too old for it; this one is what it was tried with.
const LIBC: (&str, &str) = ("libc6", "trixie");

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Present with the reason, if it could not be had; asked again after [`ASK_AGAIN`].
const UNAVAILABLE: &str = "unavailable";
const ASK_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// For each step that asks the network, in seconds.
const NETWORK_LIMIT: &str = "180";

const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Sees to it that guests have the newer kernel, or says why they have not.
pub(super) fn provide() {
    match newer(&kernel::folder()) {
        Ok(version) => println!("guests: kernel {version}"),
        Err(error) => println!(
            "guests: this machine's own user-mode-linux, 2 to 3 times slower than a newer one: {error:#}"
        ),
    }
}

fn newer(folder: &Path) -> Result<String> {
    if let Some(kernel) = Kernel::newer_in(folder) {
        return Ok(kernel.version().to_owned());
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("failed to create {}", folder.display()))?;
    // Several clones may be set up at once. Beside the folder, which is emptied.
    let lock = File::create(folder.with_extension("lock")).context("failed to make a lock file")?;
    lock.lock().context("failed to lock")?;
    if let Some(kernel) = Kernel::newer_in(folder) {
        return Ok(kernel.version().to_owned());
    }
    let unavailable = folder.join(UNAVAILABLE);
    if let Some(reason) = recent(&unavailable) {
        bail!(
            "{} (as of the last day; {})",
            reason.trim(),
            unavailable.display()
        );
    }
    empty(folder)?;
    let made = make(folder);
    if let Err(error) = &made {
        empty(folder)?;
        std::fs::write(&unavailable, format!("{error:#}\n"))
            .context("failed to note what went wrong")?;
    }
    made
}

fn recent(file: &Path) -> Option<String> {
    let age = file.metadata().ok()?.modified().ok()?.elapsed().ok()?;
    (age < ASK_AGAIN).then(|| std::fs::read_to_string(file).ok())?
}

fn empty(folder: &Path) -> Result<()> {
    std::fs::remove_dir_all(folder)
        .and_then(|()| std::fs::create_dir_all(folder))
        .with_context(|| format!("failed to empty {}", folder.display()))
}

/// In place, since the paths end up in the program; the marker comes last.
fn make(folder: &Path) -> Result<String> {
    let fetched = folder.join("fetch");
    let apt = Apt::new(&fetched)?;
    apt.run(["update", "-qq"])
        .context("failed to fetch the package lists")?;
    for (package, release) in [KERNEL, LIBC] {
        apt.run(["download", "-qq", &format!("{package}/{release}")])
            .with_context(|| format!("failed to fetch {package} of {release}"))?;
    }
    let mut version = None;
    for deb in debs(&fetched)? {
        let name = deb
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut parts = name.split('_');
        if parts.next() == Some(KERNEL.0) {
            version = parts.next().map(str::to_owned);
        }
        process::run(process::command("dpkg-deb", ["-x"]).args([&deb, folder]))?;
    }
    let version = version.context("no kernel package arrived")?;
    patch(folder)?;
    // Lists and packages are of no more use.
    std::fs::remove_dir_all(&fetched).context("failed to remove what was fetched")?;

    // A whole guest with all its modules, and LVM, which is what it is wanted for.
    Guest::builder()
        .kernel(Kernel::unpacked_in(folder, &version))
        .disk(64 << 20)
        .boot(["sh", "-c", "pvcreate /dev/ubdb && pvs"], BOOT_LIMIT)
        .and_then(stowage_testkit::guest::Outcome::success)
        .with_context(|| format!("{} {version} does not work here", KERNEL.0))?;
    let beside = folder.join("ready.new");
    std::fs::write(&beside, format!("{version}\n"))
        .and_then(|()| std::fs::rename(&beside, folder.join(kernel::MARKER)))
        .context("failed to mark the kernel as ready")?;
    Ok(version)
}

/// Running it through the loader would not do: it runs itself again.
fn patch(folder: &Path) -> Result<()> {
    let program = folder.join(kernel::PROGRAM);
    std::fs::copy(folder.join("usr/bin/linux.uml"), &program)
        .context("the package has no linux.uml")?;
    let libraries = folder.join("usr/lib/x86_64-linux-gnu");
    let mut patchelf = process::command("patchelf", ["--set-interpreter"]);
    patchelf
        .arg(libraries.join("ld-linux-x86-64.so.2"))
        .arg("--set-rpath")
        .arg(&libraries)
        .arg(&program);
    process::run(&mut patchelf)
}

fn debs(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).context("failed to list what was fetched")?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths
        .filter(|path| path.extension().is_some_and(|ext| ext == "deb"))
        .collect())
}

/// apt with a source list and lists of its own: the machine's stay as they are.
struct Apt {
    dir: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(dir: &Path) -> Result<Self> {
        ensure!(find("apt-get").is_some(), "no apt-get here");
        ensure!(find("patchelf").is_some(), "patchelf is not installed");
        let mirror = mirror()?;
        let (lists, cache) = (dir.join("lists"), dir.join("cache"));
        for dir in [&lists, &cache] {
            std::fs::create_dir_all(dir).context("failed to make apt's directories")?;
        }
        let signed = if Path::new(KEYRING).exists() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let sources: String = [KERNEL.1, LIBC.1]
            .map(|release| format!("deb {signed}{mirror} {release} main\n"))
            .concat();
        let list = dir.join("sources.list");
        std::fs::write(&list, sources).context("failed to write a source list")?;
        let options = [
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", lists.display()),
            format!("Dir::Cache={}", cache.display()),
            // Nothing but the packages' list: no translations, no icons.
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::http::Timeout=20".to_owned(),
            "Acquire::https::Timeout=20".to_owned(),
            // Its own user could not write below a home directory.
            "APT::Sandbox::User=root".to_owned(),
        ];
        Ok(Self {
            dir: dir.to_path_buf(),
            options: options
                .into_iter()
                .flat_map(|o| ["-o".to_owned(), o])
                .collect(),
        })
    }

    fn run<const N: usize>(&self, args: [&str; N]) -> Result<()> {
        let mut command = process::command("timeout", [NETWORK_LIMIT, "apt-get"]);
        command
            .args(&self.options)
            .args(args)
            .current_dir(&self.dir);
        let output = command.output().context("failed to run apt-get")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "apt-get {}: {}",
            args[0],
            said.lines().next_back().unwrap_or("it said nothing")
        );
        Ok(())
    }
}

/// Where this machine gets its own release's packages from.
fn mirror() -> Result<String> {
    let release =
        std::fs::read_to_string("/etc/os-release").context("failed to read os-release")?;
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_matches('"').to_owned())
    };
    ensure!(
        value("ID=").as_deref() == Some("debian"),
        "this machine is no Debian"
    );
    let codename = value("VERSION_CODENAME=").context("os-release names no release")?;
    let mut apt = process::command("apt-get", ["update", "--print-uris"]);
    mirror_in(&process::output(&mut apt)?, &codename)
        .with_context(|| format!("apt has no source for {codename}"))
}

/// In lines such as `'http://mirror/debian/dists/stable/InRelease' file 0`.
fn mirror_in(uris: &str, codename: &str) -> Option<String> {
    uris.lines().find_map(|line| {
        let uri = line.strip_prefix('\'')?.split('\'').next()?;
        let (mirror, rest) = uri.split_once("/dists/")?;
        let release = rest.strip_suffix("/InRelease")?;
        (release == codename || release == "stable").then(|| mirror.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_the_machines_own_release() {
        let uris = "\
            'https://other.example/node/dists/nodistro/InRelease' a 0 \n\
            'http://mirror.example/debian-security/dists/bookworm-security/InRelease' b 0 \n\
            'http://mirror.example/debian/dists/bookworm/InRelease' c 0 \n";
        assert_eq!(
            mirror_in(uris, "bookworm").as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(mirror_in(uris, "trixie"), None);
    }

    #[test]
    fn a_failure_is_remembered_for_a_day_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(UNAVAILABLE);
        assert_eq!(recent(&file), None);
        std::fs::write(&file, "no mirror").unwrap();
        assert_eq!(recent(&file).as_deref(), Some("no mirror"));
        let old = std::time::SystemTime::now() - 2 * ASK_AGAIN;
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(old)
            .unwrap();
        assert_eq!(recent(&file), None);
    }
}
