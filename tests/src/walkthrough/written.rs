//! The manifests that observations write, and whose those are that are there.

use std::collections::BTreeSet;
use std::fs;

use super::policies;
use super::step::Step;
use crate::error::Result;
use crate::lab::Lab;

/// The files that observations write, each with its content.
fn written() -> impl Iterator<Item = (&'static str, &'static str)> {
    let steps = policies::OBSERVATIONS.iter().flat_map(|one| one.steps);
    steps.filter_map(|step| match step {
        Step::Run { command, .. } => {
            let (path, content) = command.strip_prefix("cat >")?.split_once(" <<END\n")?;
            Some((path, content.strip_suffix("END")?))
        }
        _ => None,
    })
}

/// Of the files that observations write, those that are there: the walkthrough's, perhaps not to their
/// end, and those that hold something else.
pub(super) fn manifests(lab: &Lab) -> Result<(BTreeSet<&'static str>, BTreeSet<&'static str>)> {
    let (mut ours, mut others) = (BTreeSet::new(), BTreeSet::new());
    for (path, content) in written() {
        let Ok(text) = lab.place().inside(|| fs::read_to_string(path))? else {
            continue;
        };
        match content.starts_with(&text) {
            true => ours.insert(path),
            false => others.insert(path),
        };
    }
    // One file is written twice.
    others.retain(|path| !ours.contains(path));
    Ok((ours, others))
}
