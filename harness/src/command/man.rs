//! `clashtrack man [SUBCOMMAND]`: man pages from the one definition.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Globals;
use crate::cli::Cli;
use crate::error::Error;

const AFTER_HELP: &str = "\
Examples:
  clashtrack man > clashtrack.1
  clashtrack man hooks
  clashtrack man --out target/man";

/// What `man` takes.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = AFTER_HELP)]
pub struct ManArgs {
    /// The subcommand whose page is wanted; without one, the page of the command itself
    #[arg(value_name = "SUBCOMMAND")]
    pub subcommand: Option<String>,
    /// Write all pages into this folder (made when missing) instead
    #[arg(long, value_name = "FOLDER", conflicts_with = "subcommand")]
    pub out: Option<PathBuf>,
}

/// Prints one page, or writes all.
///
/// # Errors
/// An unknown subcommand, a folder that cannot be written, or [`Error::Output`].
pub fn run(args: &ManArgs, _globals: &Globals) -> Result<ExitCode, Error> {
    let pages = pages();
    if let Some(folder) = &args.out {
        write_all(&pages, folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = match &args.subcommand {
        None => "clashtrack".to_owned(),
        Some(subcommand) => format!("clashtrack-{subcommand}"),
    };
    let Some(page) = pages.iter().find(|page| page.name == wanted) else {
        return Err(Error::Argument {
            flag: "SUBCOMMAND",
            problem: format!("there is no page {wanted}"),
            remedy: format!("the pages are: {}", names(&pages)),
        });
    };
    let roff = page.render()?;
    io::stdout().write_all(&roff).map_err(Error::Output)?;
    Ok(ExitCode::SUCCESS)
}

/// One man page to be.
struct Page {
    name: String,
    command: Command,
}

impl Page {
    fn render(&self) -> Result<Vec<u8>, Error> {
        let mut roff = Vec::new();
        Man::new(self.command.clone())
            .title(self.name.clone())
            .render(&mut roff)
            .map_err(Error::Output)?;
        Ok(roff)
    }
}

/// The command's own page, then those of its subcommands.
fn pages() -> Vec<Page> {
    let mut root = Cli::command();
    // Global flags and full names reach the subcommands' pages only after this.
    root.build();
    let subcommands = root
        .get_subcommands()
        .filter(|subcommand| subcommand.get_name() != "help")
        .map(|subcommand| Page {
            name: format!("clashtrack-{}", subcommand.get_name()),
            command: subcommand.clone(),
        })
        .collect::<Vec<_>>();
    let mut pages = vec![Page {
        name: "clashtrack".to_owned(),
        command: root,
    }];
    pages.extend(subcommands);
    pages
}

fn names(pages: &[Page]) -> String {
    let names: Vec<_> = pages.iter().map(|page| page.name.as_str()).collect();
    names.join(", ")
}

fn write_all(pages: &[Page], folder: &Path) -> Result<(), Error> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File {
            action,
            path,
            source,
        }
    };
    fs::create_dir_all(folder).map_err(failed("create the folder", folder))?;
    for page in pages {
        let path = folder.join(format!("{}.1", page.name));
        fs::write(&path, page.render()?).map_err(failed("write", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_a_page_that_shows_the_global_flags() {
        let pages = pages();
        assert!(pages.len() > 4);
        for page in &pages {
            let roff = String::from_utf8(page.render().unwrap()).unwrap();
            assert!(roff.contains(r"\-\-json"), "{}", page.name);
        }
    }

    #[test]
    fn the_main_page_lists_the_exit_codes() {
        let roff = String::from_utf8(pages()[0].render().unwrap()).unwrap();
        assert!(roff.contains("Exit codes:"), "{roff}");
    }
}
