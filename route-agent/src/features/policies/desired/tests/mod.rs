//! The policies' meaning: row by row, and for whatever may come.

mod oracle;
mod random;
mod rows;
