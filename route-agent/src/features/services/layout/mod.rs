//! How Services lie in the kernel: a constant number of rules, and elements of named maps.
//!
//! `names` has the names of tables, maps and chains; `answers` what a portal may say; `limits` how
//! much there is room for; `elements` says which elements a plan needs, and `portals` where a frontend is found among them; `words` has what rules and
//! sets share, `sets` how sets are declared, `chains` the rules of the chains that come and go;
//! `skeleton` has everything that is always there. `docs/services.md` shows it as `nft list` prints
//! it.

pub mod answers;
pub mod chains;
pub mod elements;
pub mod limits;
pub mod names;
pub mod portals;
pub mod sets;
pub mod skeleton;
mod words;
