//! The policies' meaning: row by row, and for whatever may come.

mod attached;
mod oracle;
mod random;
mod rows;
mod words;
