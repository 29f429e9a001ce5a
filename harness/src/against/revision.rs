//! The other program: a revision checked out by git and built by cargo, and kept by its commit.
//!
//! ```text
//! target/against/
//!   <commit>/source     a git worktree of that commit
//!   <commit>/complete   there once the checkout is
//!   <commit>/clashtrack the program
//!     build/            cargo's target folder for it
//! ```
//! All of it may be removed at any time (`rm -r target/against; git worktree prune`). It is built as this program was: release,
//! with the same compiler flags, and `--locked`, so with that revision's own dependencies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::error::Error;

/// Flags that this program was compiled with, as cargo hands them on.
const RUSTFLAGS: &str = match option_env!("CLASHTRACK_RUSTFLAGS") {
    Some(flags) => flags,
    None => "",
};

/// What git's own hooks set, and would lead our git and the build's to another repository.
const GIT_PLACES: [&str; 3] = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"];

/// The program of a revision, of the clone that the working folder is in. `building` is called before it is built, with the
/// commit's short name.
///
/// # Errors
/// [`Error::Environment`] from a debug build, which has no equal in a release; and as [`Repository`]'s.
pub fn program_of(revision: &str, building: impl FnOnce(&str)) -> Result<(Commit, PathBuf), Error> {
    if cfg!(debug_assertions) {
        return Err(Error::Environment {
            problem: "--against: this is a debug build, and the other revision will be a release"
                .to_owned(),
            remedy: "build this one by `cargo build --release`, and run target/release/clashtrack"
                .to_owned(),
        });
    }
    let repository = Repository::here()?;
    let commit = repository.commit(revision)?;
    building(commit.short());
    let program = repository.build(&commit)?;
    Ok((commit, program))
}

/// A clone of this project.
#[derive(Clone, Debug)]
pub struct Repository {
    root: PathBuf,
}

/// A commit's full name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit(String);

impl Commit {
    /// As people write it.
    #[must_use]
    pub fn short(&self) -> &str {
        // Names are ASCII; a short one is not cut.
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl Repository {
    /// The clone that the working folder is in.
    ///
    /// # Errors
    /// [`Error::Environment`] outside a clone, or without git.
    pub fn here() -> Result<Repository, Error> {
        Repository::around(Path::new("."))
    }

    /// The clone that `folder` is in.
    ///
    /// # Errors
    /// As [`Repository::here`].
    pub fn around(folder: &Path) -> Result<Repository, Error> {
        let said = git(folder, &["rev-parse", "--show-toplevel"], || {
            (
                "another revision is built from a git clone, and none is here".to_owned(),
                "run it in a clone of clashtrack",
            )
        })?;
        Ok(Repository {
            root: PathBuf::from(said),
        })
    }

    /// The commit that a revision means: a branch, a tag, a commit's name, `HEAD~3`.
    ///
    /// # Errors
    /// [`Error::Environment`] with git's own words where there is none.
    pub fn commit(&self, revision: &str) -> Result<Commit, Error> {
        let wanted = format!("{revision}^{{commit}}");
        let words = ["rev-parse", "--verify", "--end-of-options", &wanted];
        let name = git(&self.root, &words, || {
            (
                format!("--against: there is no revision `{revision}` in this clone"),
                "name a branch, a tag or a commit; `git fetch` brings those of others",
            )
        })?;
        Ok(Commit(name))
    }

    /// Builds the program of that commit, unless that is done, and returns its file. Takes minutes the first time.
    ///
    /// # Errors
    /// [`Error::Environment`] with git's or cargo's own words; [`Error::File`] where the folder cannot be written.
    pub fn build(&self, commit: &Commit) -> Result<PathBuf, Error> {
        let against = self.root.join("target").join("against");
        let own = against.join(&commit.0);
        let source = own.join("source");
        self.check_out(commit, &own, &source)?;
        // One a revision, although dependencies are built again: in a shared one cargo tells two checkouts of one package
        // apart by their files' times alone, and takes the program of the one for that of the other.
        let target = own.join("build");
        // Always asked: cargo knows best whether compiler, flags or profile have changed since.
        let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "build",
                "--release",
                "--locked",
                "--package",
                "clashtrack",
                "--bin",
                "clashtrack",
            ])
            .arg("--target-dir")
            .arg(&target)
            .current_dir(&source)
            .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS)
            .without_git_places()
            .output();
        let failed = |said: String| Error::Environment {
            problem: format!("revision {} cannot be built: {said}", commit.short()),
            remedy: format!(
                "see `cargo build --release --locked` in {}",
                source.display()
            ),
        };
        let built = built.map_err(|error| failed(format!("cargo cannot be started: {error}")))?;
        if !built.status.success() {
            return Err(failed(last_words(&built)));
        }
        let program = own.join("clashtrack");
        let made = target.join("release").join("clashtrack");
        // Beside and renamed: a running program's file stays whole.
        let copy = own.join("clashtrack.new");
        fs::copy(&made, &copy).map_err(Error::file("copy", &made))?;
        fs::rename(&copy, &program).map_err(Error::file("rename", &copy))?;
        Ok(program)
    }

    fn check_out(&self, commit: &Commit, own: &Path, source: &Path) -> Result<(), Error> {
        let complete = own.join("complete");
        if complete.exists() && source.exists() {
            return Ok(());
        }
        if source.exists() {
            // Somebody was ended in the middle of it.
            fs::remove_dir_all(source).map_err(Error::file("remove", source))?;
        }
        fs::create_dir_all(own).map_err(Error::file("create the folder", own))?;
        let place = source.display().to_string();
        // By force: the worktree's folder may have been removed without git's knowing.
        let words = [
            "worktree", "add", "--force", "--detach", "--quiet", &place, &commit.0,
        ];
        git(&self.root, &words, || {
            (
                format!("revision {} cannot be checked out", commit.short()),
                "`git worktree prune` forgets worktrees whose folders are gone",
            )
        })?;
        fs::write(&complete, "").map_err(Error::file("write", &complete))
    }
}

/// Beside what other commands do.
trait WithoutGitPlaces {
    fn without_git_places(&mut self) -> &mut Self;
}

impl WithoutGitPlaces for Command {
    fn without_git_places(&mut self) -> &mut Command {
        for name in GIT_PLACES {
            self.env_remove(name);
        }
        self
    }
}

/// What git prints, without the last line end. `what` says in an error what is wrong and what to do.
fn git(
    folder: &Path,
    words: &[&str],
    what: impl Fn() -> (String, &'static str),
) -> Result<String, Error> {
    let failed = |said: String| {
        let (problem, remedy) = what();
        Error::Environment {
            problem: format!("{problem}: {said}"),
            remedy: remedy.to_owned(),
        }
    };
    let output = Command::new("git")
        .args(words)
        .current_dir(folder)
        .without_git_places()
        .output()
        .map_err(|error| failed(format!("git cannot be started: {error}")))?;
    if !output.status.success() {
        return Err(failed(last_words(&output)));
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}

/// The last lines of what a command said that failed.
fn last_words(output: &Output) -> String {
    const LINES: usize = 12;
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    match lines.as_slice() {
        [] => output.status.to_string(),
        lines => lines[lines.len().saturating_sub(LINES)..].join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clone with a program of that name in it that prints `text`.
    struct Clone(tempfile::TempDir);

    impl Clone {
        fn new() -> Clone {
            let clone = Clone(tempfile::tempdir().expect("a folder"));
            clone.git(&["init", "--quiet"]);
            clone.write(
                "Cargo.toml",
                "[package]\nname = \"clashtrack\"\nedition = \"2021\"\n[workspace]\n",
            );
            clone.write(
                "Cargo.lock",
                "version = 4\n[[package]]\nname = \"clashtrack\"\nversion = \"0.0.0\"\n",
            );
            clone.write(".gitignore", "target/\n");
            clone
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }

        fn git(&self, words: &[&str]) {
            git(self.path(), words, || (format!("{words:?}"), "")).expect("git does it");
        }

        fn commit(&self, main: &str) {
            self.write("src/main.rs", main);
            self.git(&["add", "."]);
            let who = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
            self.git(&[&who[..], &["commit", "--quiet", "--message", "one"]].concat());
        }

        fn repository(&self) -> Repository {
            Repository::around(self.path()).expect("a clone")
        }
    }

    fn said_by(program: &Path) -> String {
        let output = Command::new(program).output().expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn each_revision_has_its_own_program_whatever_the_working_tree_holds() {
        let clone = Clone::new();
        clone.commit("fn main() { print!(\"older\") }");
        clone.commit("fn main() { print!(\"newer\") }");
        clone.write("src/main.rs", "fn main() { print!(\"not committed\") }");
        let repository = clone.repository();
        let programs = ["HEAD~1", "HEAD", "HEAD~1"].map(|revision| {
            let commit = repository.commit(revision).expect("a commit");
            repository.build(&commit).expect("built")
        });
        assert_eq!(said_by(&programs[0]), "older");
        assert_eq!(said_by(&programs[1]), "newer");
        assert_eq!(programs[0], programs[2]);
        // A checkout that was not finished is made anew, also when git still knows of it.
        let own = programs[0].parent().expect("a folder").to_owned();
        fs::remove_file(own.join("complete")).expect("it was there");
        fs::remove_file(own.join("source/src/main.rs")).expect("it was there");
        let commit = repository.commit("HEAD~1").expect("a commit");
        assert_eq!(said_by(&repository.build(&commit).expect("built")), "older");
    }

    #[test]
    fn what_git_and_cargo_say_is_passed_on() {
        let clone = Clone::new();
        clone.commit("fn main() { no_such_function() }");
        let repository = clone.repository();
        let said = repository.commit("no-such-branch").unwrap_err().to_string();
        assert!(
            said.contains("`no-such-branch`") && said.contains("git fetch"),
            "{said}"
        );
        let said = repository.commit("--help").unwrap_err().to_string();
        assert!(said.contains("`--help`"), "{said}");
        let commit = repository.commit("HEAD").expect("a commit");
        let said = repository.build(&commit).unwrap_err().to_string();
        assert!(
            said.contains(commit.short()) && said.contains("could not compile"),
            "{said}"
        );
        let nowhere = tempfile::tempdir().expect("a folder");
        let said = Repository::around(nowhere.path()).unwrap_err().to_string();
        assert!(
            said.contains("git clone") && said.contains("not a git repository"),
            "{said}"
        );
    }
}
