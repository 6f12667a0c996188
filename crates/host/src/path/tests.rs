use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

fn root() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    // /tmp itself may be a link somewhere.
    let path = fs::canonicalize(dir.path()).unwrap();
    (dir, path)
}

#[test]
fn only_absolute_normal_paths_are_taken() {
    for path in ["", "a/b", "./a", "/a/../b", "/a/./b", "/..", "/a\0b", "/"] {
        let refused = Target::open(Path::new(path));
        assert!(
            matches!(refused, Err(TargetError::NotAbsolute { .. })),
            "{path:?}: {refused:?}"
        );
    }
    let long = format!("/{}", "a/".repeat(2100));
    assert!(matches!(
        Target::open(Path::new(&long)),
        Err(TargetError::TooLong { .. })
    ));
    let long = format!("/{}", "a".repeat(300));
    assert!(matches!(
        Target::create_file(Path::new(&long)),
        Err(TargetError::Io { .. })
    ));
    assert!(matches!(
        Target::open(Path::new(&long)),
        Err(TargetError::TooLong { .. })
    ));
}

#[test]
fn repeated_and_trailing_slashes_are_dropped() {
    let (_dir, root) = root();
    let target = Target::create_dir(Path::new(&format!("/{}//a/", root.display())), 0o750).unwrap();
    assert_eq!(target.path(), root.join("a"));
}

#[test]
fn a_link_anywhere_is_refused_and_named() {
    let (_dir, root) = root();
    fs::create_dir_all(root.join("real/inner")).unwrap();
    symlink("real", root.join("link")).unwrap();
    for path in [root.join("link"), root.join("link/inner")] {
        for result in [
            Target::open(&path).map(|_| ()),
            Target::create_dir(&path.join("new"), 0o750).map(|_| ()),
            Target::create_file(&path.join("new")).map(|_| ()),
            Target::remove(&path.join("new")).map(|_| ()),
        ] {
            let Err(TargetError::Symlink { component, .. }) = result else {
                panic!("{result:?}")
            };
            assert_eq!(component, root.join("link"));
        }
    }
    let refused = Target::remove(&root.join("link"));
    assert!(
        matches!(refused, Err(TargetError::Symlink { .. })),
        "{refused:?}"
    );
    // A dangling link must not be created through.
    symlink("/nowhere/at/all", root.join("dangling")).unwrap();
    let refused = Target::create_file(&root.join("dangling"));
    assert!(
        matches!(refused, Err(TargetError::Symlink { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read_dir(root.join("real/inner")).unwrap().count(), 0);
}

#[test]
fn creating_twice_is_fine_and_a_missing_parent_is_named() {
    let (_dir, root) = root();
    for _ in 0..2 {
        Target::create_dir(&root.join("dir"), 0o750).unwrap();
        Target::create_file(&root.join("file")).unwrap();
    }
    let mode = fs::metadata(root.join("dir")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
    let Err(TargetError::Missing { parent }) = Target::create_dir(&root.join("no/dir"), 0o750)
    else {
        panic!()
    };
    assert_eq!(parent, root.join("no"));
    let open = Target::open(&root.join("gone"));
    assert!(matches!(open, Err(TargetError::Missing { .. })), "{open:?}");
}

#[test]
fn the_wrong_type_is_told() {
    let (_dir, root) = root();
    Target::create_dir(&root.join("dir"), 0o750).unwrap();
    Target::create_file(&root.join("file")).unwrap();
    let wrong = |result: Result<Target, TargetError>| {
        assert!(
            matches!(result, Err(TargetError::WrongType { .. })),
            "{result:?}"
        );
    };
    wrong(Target::create_dir(&root.join("file"), 0o750));
    wrong(Target::create_file(&root.join("dir")));
    wrong(Target::create_dir(&root.join("file/below"), 0o750));
    wrong(Target::open(Path::new("/dev/null")));
}

#[test]
fn the_target_stays_the_same_when_its_name_is_swapped() {
    let (_dir, root) = root();
    let target = Target::create_dir(&root.join("dir"), 0o750).unwrap();
    fs::rename(root.join("dir"), root.join("moved")).unwrap();
    symlink("/etc", root.join("dir")).unwrap();
    fs::write(target.proc_path().join("note"), "x").unwrap();
    assert!(root.join("moved/note").exists());
    assert!(!target.is_empty_dir().unwrap());
}

#[test]
fn removal_takes_empty_things_only_and_may_be_repeated() {
    let (_dir, root) = root();
    let (dir, file) = (root.join("dir"), root.join("file"));
    let target = Target::create_dir(&dir, 0o750).unwrap();
    assert!(target.is_empty_dir().unwrap());
    fs::write(&file, "data").unwrap();
    fs::write(dir.join("inner"), "").unwrap();
    assert!(matches!(
        Target::remove(&dir),
        Err(TargetError::NotEmpty { .. })
    ));
    assert!(matches!(
        Target::remove(&file),
        Err(TargetError::NotEmpty { .. })
    ));
    assert!(Target::remove(&dir.join("inner")).unwrap());
    fs::write(&file, "").unwrap();
    assert!(Target::remove(&dir).unwrap() && Target::remove(&file).unwrap());
    assert!(!Target::remove(&dir).unwrap() && !Target::remove(&file).unwrap());
    assert!(!Target::remove(&dir.join("below/a/missing/one")).unwrap());
}

/// In a directory that only root can change, which /tmp is not.
#[test]
fn links_that_only_root_can_change_are_resolved_and_no_others() {
    let top = tempfile::tempdir_in("/var/lib").unwrap();
    let top = top.path();
    let chown = |path: &Path| std::os::unix::fs::lchown(path, Some(1000), None).unwrap();
    fs::create_dir_all(top.join("disk/data/kubelet")).unwrap();
    symlink("disk/data", top.join("data")).unwrap();
    symlink(top.join("data/kubelet"), top.join("absolute")).unwrap();
    symlink("../data/./kubelet", top.join("disk/relative")).unwrap();
    let real = top.join("disk/data/kubelet");
    for link in [
        "absolute",
        "disk/relative",
        "data/kubelet",
        "disk/data/kubelet",
    ] {
        assert_eq!(settled(&top.join(link)), real, "{link}");
    }
    let refuses = |why: &str| {
        let link = top.join("absolute");
        assert_eq!(settled(&link), link, "{why}");
    };
    fs::set_permissions(top.join("disk"), fs::Permissions::from_mode(0o1777)).unwrap();
    refuses("anybody may write on the way");
    fs::set_permissions(top.join("disk"), fs::Permissions::from_mode(0o755)).unwrap();
    chown(&top.join("disk/data"));
    refuses("a directory is another's");
    std::os::unix::fs::lchown(top.join("disk/data"), Some(0), None).unwrap();
    assert_eq!(settled(&top.join("absolute")), real);
    chown(&top.join("data"));
    refuses("a link is another's");
    fs::remove_file(top.join("data")).unwrap();
    refuses("it leads nowhere");
    symlink("data", top.join("data")).unwrap();
    refuses("it leads to itself");
}
