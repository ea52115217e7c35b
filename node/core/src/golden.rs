//! Golden files of this crate, `node/core/golden/`: what the transforms gave when the format was frozen. A file that
//! changes is a change of format. `CAIRN_BLESS=1 cargo test -p cairn-core` writes them anew.

use std::{fs, path::PathBuf};

/// Compares with the file of that name, or writes it when asked to.
pub(crate) fn check(name: &str, found: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("CAIRN_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("has a parent")).expect("golden folder");
        fs::write(&path, found).expect("golden file");
    }
    let frozen = fs::read_to_string(&path).expect("golden file");
    assert_eq!(frozen, found, "{name} changed: this breaks existing vaults");
}
