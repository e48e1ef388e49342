//! Results: for people as a table, for programs as JSON.

use crate::problem;
use clap::ValueEnum;
use keepmq_server::{ExitCode, Failure};
use serde_json::{Map, Value};
use std::io::{self, Write};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns.
    #[default]
    Table,
    /// One array.
    Json,
    /// One object a line.
    Ndjson,
}

/// Rows of one kind.
pub(crate) struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

impl Table {
    pub(crate) fn new(columns: &'static [&'static str]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// One more, with a value for each column.
    pub(crate) fn push(&mut self, row: impl IntoIterator<Item = Value>) {
        let row: Vec<Value> = row.into_iter().collect();
        assert_eq!(row.len(), self.columns.len(), "a row has a value for each column");
        self.rows.push(row);
    }

    pub(crate) fn print(&self, format: Format) -> Result<(), Failure> {
        say(&self.text(format))
    }

    fn text(&self, format: Format) -> String {
        match format {
            Format::Table => self.aligned(),
            Format::Json => format!("{}\n", Value::Array(self.rows.iter().map(|row| self.object(row)).collect())),
            Format::Ndjson => self.rows.iter().map(|row| format!("{}\n", self.object(row))).collect(),
        }
    }

    fn object(&self, row: &[Value]) -> Value {
        // A header may have spaces; a key has none.
        let key = |column: &&str| column.to_lowercase().replace(' ', "_");
        Value::Object(self.columns.iter().map(key).zip(row.iter().cloned()).collect::<Map<_, _>>())
    }

    fn aligned(&self) -> String {
        let cells: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        let width = |column: usize| {
            let widest = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            widest.max(self.columns[column].len())
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let right = |column: usize| self.rows.iter().all(|row| row[column].is_number());
        let line = |cells: &[&str]| {
            let padded = cells.iter().enumerate().map(|(column, text)| match right(column) {
                true => format!("{text:>width$}", width = widths[column]),
                false => format!("{text:<width$}", width = widths[column]),
            });
            format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
        };
        let rows = cells.iter().map(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
        line(self.columns) + &rows.collect::<String>()
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        // What others have stored may hold anything; a terminal must not obey it.
        Value::String(text) => text
            .chars()
            .flat_map(|char| {
                match char.is_control() {
                    true => char.escape_default().to_string(),
                    false => char.to_string(),
                }
                .chars()
                .collect::<Vec<_>>()
            })
            .collect(),
        other => other.to_string(),
    }
}

/// On standard output.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // Whoever has read enough knows it: `keepmq consume orders | head -1`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::said(ExitCode::Io)),
        Err(error) => Err(problem::io("the result cannot be printed", &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_result_three_ways() {
        let mut table = Table::new(&["TOPIC", "MAX OFFSET"]);
        table.push([json!("orders"), json!(12)]);
        table.push([json!("p\u{1b}[2J"), json!(1000)]);
        let ways = [Format::Table, Format::Json, Format::Ndjson].map(|format| table.text(format));
        assert_eq!(ways[0], "TOPIC       MAX OFFSET\norders              12\np\\u{1b}[2J        1000\n");
        assert_eq!(
            ways[1],
            "[{\"max_offset\":12,\"topic\":\"orders\"},{\"max_offset\":1000,\"topic\":\"p\\u001b[2J\"}]\n"
        );
        assert_eq!(ways[2].lines().count(), 2);
        assert_eq!(Table::new(&["A"]).text(Format::Json), "[]\n");
    }
}
