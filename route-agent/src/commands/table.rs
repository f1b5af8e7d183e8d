//! Columns of text.

use std::fmt::Write as _;

use crate::text::printable;

/// Rows under headings, each column as wide as its widest cell.
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// No rows under these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self {
            headings: headings
                .iter()
                .map(|heading| (*heading).to_owned())
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. Names in it may be of anyone's choice: what is not printable is escaped.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| printable(&cell).into_owned();
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// True if there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The first `rows` rows, indented, and how many more there are, with the flag that shows all.
    pub fn text(&self, rows: usize, all: &str) -> String {
        let shown = || std::iter::once(&self.headings).chain(self.rows.iter().take(rows));
        let width = |column: usize| {
            shown()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let mut text = String::new();
        for row in shown() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "  {cell:width$}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let more = self.rows.len().saturating_sub(rows);
        if more > 0 {
            let _ = writeln!(text, "  ... and {more} more; {all} shows all");
        }
        text
    }
}
