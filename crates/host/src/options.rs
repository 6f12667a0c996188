//! Mount options as mount(8) takes them, split into what mount(2) wants.

use rustix::mount::MountFlags;

/// The page that the kernel copies the data string from holds its NUL too.
const MAX_DATA: usize = 4095;

/// Flags and the file system's own options (comma separated).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pub flags: MountFlags,
    pub data: String,
}

/// An option that cannot be passed on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to use mount option {option:?}: {reason}")]
pub struct BadOption {
    pub option: String,
    pub reason: &'static str,
}

/// Splits options; an item may itself hold several, separated by commas outside double quotes, so
/// that nothing can hide in one. The last of contradicting options wins, as in mount(8).
///
/// # Errors
/// Operations in the guise of options (`bind`, `remount`, `shared`, ...) are refused: the caller
/// asked for one kind of mount. NUL and an overlong data string too.
pub fn split<S: AsRef<str>>(options: &[S]) -> Result<Split, BadOption> {
    let mut flags = MountFlags::empty();
    let mut data: Vec<&str> = Vec::new();
    for option in options.iter().flat_map(|item| pieces(item.as_ref())) {
        let refuse = |reason| {
            Err(BadOption {
                option: option.to_owned(),
                reason,
            })
        };
        if option.contains('\0') {
            return refuse("it contains NUL");
        }
        if let Some((flag, on)) = flag(option) {
            flags.set(flag, on);
            continue;
        }
        match option {
            // mount(8) knows these, the kernel does not.
            "" | "defaults" | "auto" | "noauto" | "user" | "nouser" | "users" | "owner"
            | "group" | "_netdev" | "nofail" => {}
            _ if option.starts_with("x-") || option.starts_with("comment=") => {}
            "bind" | "rbind" | "move" | "remount" | "loop" | "private" | "rprivate" | "shared"
            | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" => {
                return refuse("it is an operation, not an option");
            }
            _ if option.starts_with("loop=") => return refuse("it is an operation, not an option"),
            _ => data.push(option),
        }
    }
    let data = data.join(",");
    if data.len() > MAX_DATA {
        let reason = "the options are longer than 4095 bytes";
        return Err(BadOption {
            option: data.chars().take(40).collect(),
            reason,
        });
    }
    Ok(Split { flags, data })
}

/// mount(8), "filesystem-independent mount options".
fn flag(option: &str) -> Option<(MountFlags, bool)> {
    Some(match option {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "lazytime" => (MountFlags::LAZYTIME, true),
        "nolazytime" => (MountFlags::LAZYTIME, false),
        "nosymfollow" => (MountFlags::NOSYMFOLLOW, true),
        "symfollow" => (MountFlags::NOSYMFOLLOW, false),
        "silent" => (MountFlags::SILENT, true),
        "loud" => (MountFlags::SILENT, false),
        _ => return None,
    })
}

/// Commas inside double quotes belong to the option: context="system_u:object_r:x:s0:c1,c2".
fn pieces(item: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    item.split(move |letter: char| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    })
    .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_data_part_and_the_last_word_wins() {
        let got = split(&[
            "ro",
            "noatime",
            "discard,rw",
            "defaults",
            "x-systemd.a",
            "data=ordered",
        ]);
        let want = Split {
            flags: MountFlags::NOATIME,
            data: "discard,data=ordered".into(),
        };
        assert_eq!(got, Ok(want));
    }

    #[test]
    fn operations_are_refused_even_behind_a_comma() {
        for item in ["bind", "ro,remount", "loop=/dev/loop0", "rshared", "a\0b"] {
            assert!(split(&[item]).is_err(), "{item}");
        }
    }

    #[test]
    fn a_quoted_comma_is_kept() {
        let got = split(&["context=\"a,b\",ro"]).unwrap();
        assert_eq!(
            got,
            Split {
                flags: MountFlags::RDONLY,
                data: "context=\"a,b\"".into()
            }
        );
    }

    #[test]
    fn too_much_data_is_refused_not_cut() {
        assert!(split(&["x".repeat(4096)]).is_err());
        assert!(split(&["x".repeat(4095)]).is_ok());
    }
}
