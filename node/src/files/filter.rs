//! Which paths a pattern means. Used by the walk (leave out) and by the restore (take, leave out).
//!
//! A pattern without `/` matches the name at any level; with a leading `/` it matches the whole path; with a `/` in the
//! middle only, it matches the end of the path (`docs/*.pdf` is `**/docs/*.pdf`). `*` and `?` stop at `/`, `**` does not.
//! A match of a folder covers everything below: that is the caller's part, who does not descend.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

/// Patterns in one filter. Each costs automaton memory; people write tens, generators thousands.
pub const PATTERNS_MAX: usize = 10_000;

/// Why a list of patterns was refused.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// One pattern is no valid glob.
    #[error("the pattern {pattern:?} is not valid")]
    Pattern {
        /// As the user wrote it.
        pattern: String,
        /// What the glob parser says.
        #[source]
        source: globset::Error,
    },
    /// An empty pattern, which would match nothing or everything.
    #[error("a pattern is empty")]
    Empty,
    /// More than [`PATTERNS_MAX`], or too large together.
    #[error("{count} patterns are too many or too large together")]
    TooMany {
        /// How many there were.
        count: usize,
    },
}

/// A set of patterns.
#[derive(Clone, Debug)]
pub struct Filter {
    names: GlobSet,
    paths: GlobSet,
    count: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { names: GlobSet::empty(), paths: GlobSet::empty(), count: 0 }
    }
}

impl Filter {
    /// Reads the patterns.
    ///
    /// # Errors
    /// When one is not valid, or there are too many.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, FilterError> {
        Self::build(patterns, false)
    }

    /// As [`Filter::new`], blind to the case of ASCII letters (`--iexclude`).
    ///
    /// # Errors
    /// As [`Filter::new`].
    pub fn new_ignoring_case<S: AsRef<str>>(patterns: &[S]) -> Result<Self, FilterError> {
        Self::build(patterns, true)
    }

    fn build<S: AsRef<str>>(patterns: &[S], ignore_case: bool) -> Result<Self, FilterError> {
        let too_many = || FilterError::TooMany { count: patterns.len() };
        if patterns.len() > PATTERNS_MAX {
            return Err(too_many());
        }
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for text in patterns {
            let text = text.as_ref();
            let trimmed = if text.len() > 1 { text.trim_end_matches('/') } else { text };
            if trimmed.is_empty() {
                return Err(FilterError::Empty);
            }
            let whole = match trimmed.contains('/') {
                true if !trimmed.starts_with('/') && !trimmed.starts_with("**/") => format!("**/{trimmed}"),
                _ => trimmed.to_owned(),
            };
            let glob = GlobBuilder::new(&whole)
                .literal_separator(true)
                .case_insensitive(ignore_case)
                .build()
                .map_err(|source| FilterError::Pattern { pattern: text.to_owned(), source })?;
            if whole.contains('/') {
                paths.add(glob)
            } else {
                names.add(glob)
            };
        }
        let names = names.build().map_err(|_| too_many())?;
        let paths = paths.build().map_err(|_| too_many())?;
        Ok(Self { names, paths, count: patterns.len() })
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a pattern means this absolute path or its last name.
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        if self.is_empty() {
            return false;
        }
        let name = path.file_name().unwrap_or_else(|| OsStr::new("/"));
        self.names.is_match_candidate(&Candidate::from_bytes(name.as_bytes()))
            || (!self.paths.is_empty() && self.paths.is_match(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &[&str], path: &str, expected: bool) {
        let filter = Filter::new(patterns).expect("valid patterns");
        assert_eq!(filter.matches(Path::new(path)), expected, "{patterns:?} on {path}");
    }

    #[test]
    fn a_name_matches_at_any_level() {
        check(&["*.tmp"], "/home/u/a.tmp", true);
        check(&["*.tmp"], "/home/u/a.tmp2", false);
        check(&["node_modules"], "/p/node_modules", true);
        check(&["node_modules/"], "/p/node_modules", true);
        check(&["node_modules"], "/p/node_modules/x", false);
    }

    #[test]
    fn a_slash_matches_the_path() {
        check(&["/home/u/*.iso"], "/home/u/a.iso", true);
        check(&["/home/u/*.iso"], "/home/u/d/a.iso", false);
        check(&["/home/**/*.iso"], "/home/u/d/a.iso", true);
        check(&["docs/*.pdf"], "/home/u/docs/a.pdf", true);
        check(&["docs/*.pdf"], "/home/u/olddocs/a.pdf", false);
        check(&["/etc"], "/home/etc", false);
    }

    #[test]
    fn names_that_are_not_utf8_match() {
        let filter = Filter::new(&["*.jpg"]).expect("valid");
        assert!(filter.matches(Path::new(OsStr::from_bytes(b"/p/\xff\xfe.jpg"))));
    }

    #[test]
    fn bad_patterns_are_named() {
        assert!(matches!(Filter::new(&["a["]), Err(FilterError::Pattern { pattern, .. }) if pattern == "a["));
        assert!(matches!(Filter::new(&[""]), Err(FilterError::Empty)));
        assert!(!Filter::default().matches(Path::new("/a")));
    }

    #[test]
    fn case_is_ignored_on_request() {
        assert!(Filter::new_ignoring_case(&["*.JPG"]).expect("valid").matches(Path::new("/a.jpg")));
        assert!(!Filter::new(&["*.JPG"]).expect("valid").matches(Path::new("/a.jpg")));
    }
}
