//! A grid of words, printed as a table, as CSV or as Markdown.

use std::io::{self, Write};

use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Padding, Style};

use crate::cli::Format;
use crate::error::Error;

/// Which side a column's cells lean to. Numbers lean right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a head.
#[derive(Clone, Debug)]
pub struct Grid {
    head: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// An empty grid with these columns. A unit belongs into the head, once.
    #[must_use]
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, Align)>) -> Grid {
        Grid {
            head: columns
                .into_iter()
                .map(|(name, align)| (name.into(), align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row: a cell a column.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        debug_assert_eq!(cells.len(), self.head.len(), "a cell a column");
        self.rows.push(cells);
    }

    /// Prints it on stdout. [`Format::Json`] is the caller's own business and prints as a table.
    ///
    /// # Errors
    /// [`Error::Output`] when stdout cannot be written.
    pub fn print(&self, format: Format) -> Result<(), Error> {
        io::stdout()
            .lock()
            .write_all(self.render(format).as_bytes())
            .map_err(Error::Output)
    }

    /// As text, with a line end behind the last row and no spaces at line ends.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Csv => self.csv(),
            Format::Markdown => self.drawn(true),
            Format::Table | Format::Json => self.drawn(false),
        }
    }

    fn drawn(&self, markdown: bool) -> String {
        let mut builder = Builder::default();
        builder.push_record(self.head.iter().map(|(name, _)| name.as_str()));
        for row in &self.rows {
            builder.push_record(row.iter().map(|cell| {
                if markdown {
                    cell.replace('|', "\\|")
                } else {
                    cell.clone()
                }
            }));
        }
        let mut table = builder.build();
        if markdown {
            table.with(Style::markdown());
        } else {
            table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
        }
        for (index, (_, align)) in self.head.iter().enumerate() {
            if *align == Align::Right {
                table.modify(Columns::one(index), Alignment::right());
            }
        }
        let mut text = String::new();
        for line in table.to_string().lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// RFC 4180, but for its line ends: those of Unix.
    fn csv(&self) -> String {
        let head = self.head.iter().map(|(name, _)| name.as_str()).collect();
        let rows = self
            .rows
            .iter()
            .map(|row| row.iter().map(String::as_str).collect());
        std::iter::once(head)
            .chain(rows)
            .map(|cells: Vec<&str>| {
                let quoted: Vec<_> = cells.into_iter().map(csv_cell).collect();
                quoted.join(",") + "\n"
            })
            .collect()
    }
}

fn csv_cell(cell: &str) -> String {
    if cell.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new([("name", Align::Left), ("count", Align::Right)]);
        grid.row(["a|b, \"c\"", "7"]);
        grid.row(["d", "12345678"]);
        grid
    }

    #[test]
    fn a_table_leans_numbers_right_and_has_no_spaces_at_line_ends() {
        let text = grid().render(Format::Table);
        assert_eq!(
            text,
            "name         count\na|b, \"c\"         7\nd         12345678\n"
        );
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(
            grid().render(Format::Csv),
            "name,count\n\"a|b, \"\"c\"\"\",7\nd,12345678\n"
        );
    }

    #[test]
    fn markdown_escapes_the_bar() {
        let text = grid().render(Format::Markdown);
        assert!(text.starts_with("| name"), "{text}");
        assert!(text.contains("a\\|b"), "{text}");
    }
}
