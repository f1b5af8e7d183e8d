//! What several features are made of. A part keeps nothing right by itself.

pub mod forgetting;
pub mod kept;
pub mod kept_table;
pub mod log;
pub mod loopback;
pub mod pod_links;
pub mod signs_of_life;
