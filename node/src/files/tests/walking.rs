//! Walking: what is listed, in which order, what is left out, and what is told of the rest.

use super::*;

#[test]
fn the_walk_is_sorted_by_bytes_and_nests() {
    let dir = folder();
    for name in ["b/z", "b/a", "b.txt", "a", "b-", "é"] {
        put(&dir.path().join(name), b"x");
    }
    let steps = walk(&[dir.path()], WalkOptions::default());
    assert_eq!(listing(dir.path(), &steps), ["a", "+b", "b/a", "b/z", "-b", "b-", "b.txt", "é"]);
    let depth = steps.iter().fold(0i32, |depth, step| match step {
        Step::Enter(_) => depth + 1,
        Step::Leave(_) => depth - 1,
        _ => depth,
    });
    assert_eq!(depth, 0);
    assert!(matches!(&steps[0], Step::Enter(top) if top.parent() == Some(Path::new("/"))));
}

#[test]
fn sources_share_their_way_and_nested_ones_count_once() {
    let dir = folder();
    put(&dir.path().join("x/one"), b"1");
    put(&dir.path().join("x/sub/two"), b"2");
    put(&dir.path().join("y/three"), b"3");
    put(&dir.path().join("unwanted"), b"4");
    let (x, sub, y) = (dir.path().join("x"), dir.path().join("x/sub"), dir.path().join("y/../y/./three"));
    let steps = walk(&[&sub, &y, &x], WalkOptions::default());
    assert_eq!(
        listing(dir.path(), &steps),
        ["+x", "x/one", "+x/sub", "x/sub/two", "-x/sub", "-x", "+y", "y/three", "-y"]
    );
}

#[test]
fn a_missing_source_is_an_item_and_the_rest_goes_on() {
    let dir = folder();
    put(&dir.path().join("here"), b"1");
    let (here, gone, deeper) = (dir.path().join("here"), dir.path().join("gone"), dir.path().join("no/such/way"));
    let steps = walk(&[&here, &gone, &deeper], WalkOptions::default());
    assert_eq!(listing(dir.path(), &steps), ["!gone", "here", "!no/such/way"]);
    assert!(matches!(Walk::new(&["relative"], WalkOptions::default()), Err(WalkError::NotAbsolute(_))));
}

#[test]
fn symlinks_are_recorded_and_never_followed() {
    let dir = folder();
    put(&dir.path().join("real/file"), b"x");
    symlink(dir.path().join("real"), dir.path().join("link")).expect("made");
    symlink("loop", dir.path().join("loop")).expect("made");
    symlink("..", dir.path().join("real/up")).expect("made");
    let steps = walk(&[dir.path()], WalkOptions::default());
    assert_eq!(listing(dir.path(), &steps), ["link", "loop", "+real", "real/file", "real/up", "-real"]);
    // Above a source they are followed: a person wrote that path.
    let through = dir.path().join("link/file");
    assert_eq!(listing(dir.path(), &walk(&[&through], WalkOptions::default())), ["+link", "link/file", "-link"]);
}

#[test]
fn excludes_caches_and_marks_leave_things_out() {
    let dir = folder();
    for name in ["keep", "a.tmp", "d/b.tmp", "d/keep", "skip/inner", "cache/big", "marked/x", "marked/.nobackup"] {
        put(&dir.path().join(name), b"x");
    }
    put(&dir.path().join("cache/CACHEDIR.TAG"), b"Signature: 8a477f597d28d172789f06886806bc55\n");
    put(&dir.path().join("liar/CACHEDIR.TAG"), b"Signature: none");
    put(&dir.path().join("liar/x"), b"x");
    let options = WalkOptions {
        exclude: Filter::new(&["*.tmp".to_owned(), format!("{}/skip", dir.path().display())]).expect("valid"),
        exclude_caches: true,
        exclude_if_present: vec![".nobackup".into()],
        one_file_system: true,
    };
    assert_eq!(
        listing(dir.path(), &walk(&[dir.path()], options)),
        [
            "+cache",
            "cache/CACHEDIR.TAG",
            "-cache",
            "+d",
            "d/keep",
            "-d",
            "keep",
            "+liar",
            "liar/CACHEDIR.TAG",
            "liar/x",
            "-liar",
            "+marked",
            "marked/.nobackup",
            "-marked"
        ]
    );
}

#[test]
fn another_file_system_is_an_empty_folder() {
    // Every Linux has these two mounted apart.
    let options = WalkOptions { one_file_system: true, ..WalkOptions::default() };
    let mut inside_proc = 0;
    let mut saw_proc = false;
    for step in Walk::new(&["/"], WalkOptions { exclude: Filter::new(&["/[!p]*"]).expect("valid"), ..options })
        .expect("absolute")
    {
        match step {
            Step::Enter(path) if path == Path::new("/proc") => saw_proc = true,
            Step::Leaf(entry) if entry.path.starts_with("/proc/") => inside_proc += 1,
            _ => {}
        }
    }
    assert!(saw_proc && inside_proc == 0);
}

#[test]
fn what_vanishes_or_is_replaced_is_reported() {
    let dir = folder();
    let file = dir.path().join("file");
    put(&file, b"one");
    let mut entry = entry_of(&file);
    fs::remove_file(&file).expect("removed");
    let gone = read_file(&mut entry, &mut Collect::default());
    assert!(matches!(gone, Err(ReadFailure::Source(ReadError::Open(_)))), "{gone:?}");
    // The inode of the first must stay in use, or the new file may get it.
    let first = dir.path().join("first");
    put(&first, b"one");
    let mut entry = entry_of(&first);
    fs::rename(&first, dir.path().join("away")).expect("renamed");
    put(&first, b"two");
    let other = read_file(&mut entry, &mut Collect::default());
    assert!(matches!(other, Err(ReadFailure::Source(ReadError::Replaced))), "{other:?}");
    fs::remove_file(&first).expect("removed");
    symlink("away", &first).expect("made");
    let link = read_file(&mut entry, &mut Collect::default());
    assert!(matches!(link, Err(ReadFailure::Source(ReadError::Replaced))), "{link:?}");
    let Err(ReadFailure::Source(error)) = link else { unreachable!("matched above") };
    assert_eq!(error.about(&entry).during, "read");
}

#[test]
fn an_unreadable_folder_is_one_item() {
    let dir = folder();
    put(&dir.path().join("gone/inner"), b"x");
    put(&dir.path().join("later"), b"x");
    let mut walk = Walk::new(&[dir.path()], WalkOptions::default()).expect("absolute");
    // The names of the top folder are listed when it is entered; then one of them goes.
    let inside = walk.by_ref().find(|step| matches!(step, Step::Enter(path) if path == dir.path()));
    assert!(inside.is_some());
    fs::remove_dir_all(dir.path().join("gone")).expect("removed");
    let rest: Vec<_> = walk.collect();
    assert_eq!(listing(dir.path(), &rest), ["!gone", "later"]);
}
