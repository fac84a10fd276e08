//! Tables without frames: columns that read well on a terminal and cut well with `awk`.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement};

use super::text::escape;
use crate::secret::blank;

/// A table under construction. Every cell is escaped, so that no file name can write to the terminal.
#[derive(Debug)]
pub struct Table {
    headers: Vec<String>,
    right: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles.
    #[must_use]
    pub fn new<const N: usize>(headers: [&str; N]) -> Self {
        Self { headers: headers.map(str::to_owned).to_vec(), right: Vec::new(), rows: Vec::new() }
    }

    /// Aligns these columns (counted from 0) to the right: numbers and sizes.
    #[must_use]
    pub fn right<const N: usize>(mut self, columns: [usize; N]) -> Self {
        self.right = columns.to_vec();
        self
    }

    /// Adds a row. Hidden values are blanked out before a cell is wrapped.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| escape(&blank(&cell))).to_vec());
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, each ended by a line feed. With a `width`, long cells wrap (except in the first column, which
    /// holds what people copy); without one, every row is one line and nothing is cut.
    #[must_use]
    pub fn render(&self, width: Option<u16>) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).force_no_tty().set_header(&self.headers);
        for row in &self.rows {
            table.add_row(row);
        }
        match width {
            Some(width) => table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if index == 0 && width.is_some() {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(["ID", "SIZE", "NOTE"]).right([1]);
        table.row(["20260307T140000Z-000001-0123456789abcdef".into(), "1.2 MiB".into(), "a long note ".repeat(8)]);
        table.row(["short".into(), "9 B".into(), "\u{1b}[31m".into()]);
        table
    }

    #[test]
    fn without_a_width_each_row_is_one_uncut_line_without_frames() {
        let text = sample().render(None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("ID  "), "{text}");
        assert!(lines[1].contains("  1.2 MiB  a long note"), "{text}");
        assert!(lines[1].ends_with("a long note"), "{text}");
        assert!(lines[2].contains("      9 B  \\x1b[31m"), "{text}");
        assert!(text.is_ascii());
    }

    #[test]
    fn with_a_width_lines_fit_and_the_first_column_stays_whole() {
        let text = sample().render(Some(80));
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.contains("20260307T140000Z-000001-0123456789abcdef"), "{text}");
    }
}
