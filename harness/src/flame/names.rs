//! Names for frames: the functions that were inlined at an address, from this program's own debug info.
//!
//! A release build keeps line tables, which know of each inlined call but of most only the bare name; the source file
//! says which module that is in: `find_batch` of `…/table/lockfree/lookup.rs` is `lockfree::lookup::find_batch`.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use addr2line::Loader;
use object::{Object, ObjectSymbol};

use crate::error::Error;

/// Resolves places in this program to the functions that they are in.
pub struct Names {
    program: PathBuf,
    /// Address of each symbol, by its mangled name.
    symbols: HashMap<String, u64>,
    debug_info: Loader,
    known: HashMap<u64, Vec<String>>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

impl Names {
    /// Reads symbols and debug info of the program that is running.
    ///
    /// # Errors
    /// [`Error::File`] where its file cannot be read, or is none of this system's programs.
    pub fn of_this_program() -> Result<Names, Error> {
        let program = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        let unreadable = |source| Error::File {
            action: "read the symbols of",
            path: program.clone(),
            source,
        };
        let bytes = std::fs::read(&program).map_err(unreadable)?;
        let file = object::File::parse(&*bytes)
            .map_err(|error| unreadable(std::io::Error::other(error)))?;
        let symbols = file
            .symbols()
            .filter_map(|symbol| Some((symbol.name().ok()?.to_owned(), symbol.address())))
            .collect();
        let debug_info = Loader::new(&program)
            .map_err(|error| unreadable(std::io::Error::other(error.to_string())))?;
        Ok(Names {
            symbols,
            debug_info,
            known: HashMap::new(),
            program,
        })
    }

    /// Is this file the program?
    #[must_use]
    pub fn is_ours(&self, file: &str) -> bool {
        Path::new(file) == self.program
    }

    /// The functions at `offset` bytes into a symbol of ours, the outermost first. `is_return` for an address that a call
    /// returns to, which belongs to the call before it.
    #[must_use]
    pub fn at(&mut self, symbol: &str, offset: u64, is_return: bool) -> Vec<String> {
        let Some(start) = self.symbols.get(symbol) else {
            return vec![plain(symbol)];
        };
        let address = start + offset - u64::from(is_return && offset > 0);
        if let Some(names) = self.known.get(&address) {
            return names.clone();
        }
        let mut names = self.frames(address);
        if names.is_empty() {
            names.push(plain(symbol));
        }
        names.reverse();
        self.known.insert(address, names.clone());
        names
    }

    /// The innermost first.
    fn frames(&self, address: u64) -> Vec<String> {
        let mut names = Vec::new();
        let Ok(mut frames) = self.debug_info.find_frames(address) else {
            return names;
        };
        while let Ok(Some(frame)) = frames.next() {
            let Some(function) = frame.function else {
                break;
            };
            let Ok(name) = function.demangle() else {
                break;
            };
            let file = frame.location.and_then(|location| location.file);
            names.push(in_module(&name, file));
        }
        names
    }
}

/// A symbol that no debug info is known of.
#[must_use]
pub fn plain(symbol: &str) -> String {
    let name = addr2line::demangle_auto(symbol.into(), None);
    without_types(&name)
}

/// A function's name without types, behind its module where the name alone does not say it.
fn in_module(name: &str, file: Option<&str>) -> String {
    let name = without_types(name);
    match file.and_then(module_of) {
        Some(module) if !name.contains("::") || name.starts_with("{") => {
            format!("{module}::{name}")
        }
        _ => name,
    }
}

/// Two levels of modules at most, from a source file's path.
fn module_of(file: &str) -> Option<String> {
    let (_, inside) = file.rsplit_once("/src/")?;
    let inside = inside.strip_suffix(".rs")?;
    let mut parts: Vec<&str> = inside.split('/').collect();
    if matches!(parts.last(), Some(&"mod" | &"lib" | &"main")) {
        parts.pop();
    }
    let from = parts.len().saturating_sub(2);
    match &parts[from..] {
        [] => None,
        parts => Some(parts.join("::")),
    }
}

/// `a::b<C<D>>::e` is `a::b::e`, `<impl a::B for C>::e` is `e`, with the path before it: types make names as long as pages.
/// What separates frames and counts in folded stacks goes too.
fn without_types(name: &str) -> String {
    let mut depth = 0_usize;
    let mut short = String::with_capacity(name.len());
    let mut before = ' ';
    for letter in name.chars() {
        match letter {
            '<' => depth += 1,
            // Not that of an arrow.
            '>' if before != '-' => depth = depth.saturating_sub(1),
            ';' | ' ' => {}
            _ if depth == 0 => short.push(letter),
            _ => {}
        }
        before = letter;
    }
    let parts: Vec<&str> = short.split("::").filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return "unknown".to_owned();
    }
    parts.join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inlined_function_is_named_with_the_module_of_its_file() {
        let name = in_module(
            "find_batch_by<engine::KeyV4, engine::Wide>",
            Some("/x/engine/src/table/lockfree/lookup.rs"),
        );
        assert_eq!(name, "lockfree::lookup::find_batch_by");
        assert_eq!(
            in_module("new<T>", Some("/x/engine/src/table/mod.rs")),
            "table::new"
        );
        assert_eq!(in_module("go", None), "go");
    }

    #[test]
    fn types_are_left_out_of_names() {
        assert_eq!(without_types("a::<impl b::C<D> for E>::f"), "a::f");
        assert_eq!(without_types("<a::B as c::D>::e"), "e");
        assert_eq!(without_types("f<fn(u8) -> u8>"), "f");
        assert_eq!(without_types("a::f::{{closure}}"), "a::f::{{closure}}");
        assert_eq!(without_types("<T>"), "unknown");
    }

    #[test]
    fn a_function_of_this_program_is_found_by_its_symbol() {
        let mut names = Names::of_this_program().unwrap();
        let (symbol, _) = names
            .symbols
            .iter()
            .find(|(name, _)| name.contains("module_of"))
            .expect("this module's own function");
        let symbol = symbol.clone();
        let found = names.at(&symbol, 0, false);
        assert!(
            found.iter().any(|name| name.contains("module_of")),
            "{found:?}"
        );
    }
}
