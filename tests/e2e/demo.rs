//! The first command of the README.

use std::{fs, process::Stdio};

use crate::{
    harness::{Running, cairn},
    tree,
};

#[test]
fn the_demo_tells_its_story_and_ends_well() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    fs::create_dir(&data).unwrap();
    tree::build(&data);
    let before = tree::describe(&data);
    let mut command = cairn(home.path());
    command.arg("demo").arg(&data).env("TMPDIR", home.path());
    let output = Running::spawn(command, Stdio::null()).finish().ok();
    let story = format!("{}{}", output.text(), output.stderr);
    assert!(story.contains("24"), "{story}");
    assert_eq!(tree::differences(&before, &tree::describe(&data)), [""; 0], "the demo changes nothing of yours");
    let left: Vec<_> =
        fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).filter(|n| n != "data").collect();
    assert!(left.is_empty(), "the demo cleans up after itself: {left:?}");
}
