//! Tables on a terminal.

use std::ops::Range;

use super::out_line;

/// Prints columns as wide as their widest cell; a CJK character takes two columns of the terminal. The columns
/// `numbers` are aligned to the right.
pub(crate) fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]], numbers: Range<usize>) {
    let width_of = |text: &str| text.chars().map(|c| if c >= '\u{1100}' { 2 } else { 1 }).sum::<usize>();
    let widths: Vec<usize> =
        (0..COLUMNS).map(|column| rows.iter().map(|row| width_of(&row[column])).max().unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let pad = " ".repeat(width - width_of(cell));
            if numbers.contains(&column) { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
        });
        if !out_line(cells.collect::<Vec<_>>().join("  ").trim_end()) {
            return;
        }
    }
}
