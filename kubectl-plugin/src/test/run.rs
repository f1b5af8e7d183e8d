//! Runs a plan on a ground, so many cases at a time, and finds out why those fail that do.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use crate::test::case::{Case, Family, Group, Spot, Target};
use crate::test::ground::{Explain, Ground, GroundError, Laid};
use crate::test::plan::{Plan, Skipped};
use crate::test::{probe, verdict};

/// How long one command may take. It ends by itself sooner; a busy API server may be slow to start it.
const COMMAND: Duration = Duration::from_secs(30);

/// How long everything may take to be taken away again.
const CLEANING: Duration = Duration::from_secs(30);

/// How long it may take to see what is left after that.
const LOOKING: Duration = Duration::from_secs(5);

/// For so many pairs of a group, from where and where to, `why` is asked: the rest will be more of the
/// same.
const EXPLAINED: usize = 6;

/// Once so many have failed after all their tries, something is broken and not late: the others are
/// tried once, or a cluster in which nothing works takes ten times as long.
const BROKEN: usize = 16;

/// How a test is run.
#[derive(Debug, Clone)]
pub struct Pace {
    /// So many cases at a time.
    pub parallel: usize,
    /// How long to wait before each further try of a case that failed.
    pub again: Vec<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            parallel: 8,
            again: vec![Duration::from_secs(1), Duration::from_secs(3)],
        }
    }
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it must be.
    Passed,
    /// Not.
    Failed {
        /// What was not as it must be.
        reason: String,
        /// What the agents say of it.
        why: Vec<String>,
    },
    /// Its result would mean nothing.
    Skipped(String),
}

/// A case and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What was tried.
    pub case: Case,
    /// What came of it.
    pub verdict: Verdict,
    /// How long it took, with all tries.
    pub took: Duration,
}

/// What came of a test.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was to be tried.
    pub plan: Plan,
    /// What was tried, in the order of the plan.
    pub done: Vec<Done>,
    /// Pods that do not run, and why: failures.
    pub missing: BTreeMap<Spot, String>,
    /// What the agents say is wrong.
    pub wrong: Vec<String>,
    /// Why not everything was taken away again, if so.
    pub left: Option<String>,
    /// How long all of it took.
    pub took: Duration,
}

impl Outcome {
    /// True if nothing failed.
    pub fn passed(&self) -> bool {
        self.failures().next().is_none() && self.is_complete() && self.left.is_none()
    }

    /// True if everything could be tried.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.plan.unfit.is_empty() && !self.plan.cases.is_empty()
    }

    /// The cases that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Done> {
        let failed = |done: &&Done| matches!(done.verdict, Verdict::Failed { .. });
        self.done.iter().filter(failed)
    }

    /// How many cases of a group failed, and how many were tried.
    pub fn count(&self, group: Group) -> (usize, usize) {
        let mut count = (0, 0);
        for done in self.done.iter().filter(|done| done.case.group == group) {
            match done.verdict {
                Verdict::Passed => count.1 += 1,
                Verdict::Failed { .. } => count = (count.0 + 1, count.1 + 1),
                Verdict::Skipped(_) => {}
            }
        }
        count
    }
}

/// Who is told how far it is.
pub trait Progress: Sync {
    /// Something else begins.
    fn stage(&self, what: &str);
    /// A case is through.
    fn case(&self, done: &Done, through: usize, of: usize);
}

/// Tries everything. Whatever comes of it, and also if `interrupt` ends first, everything that was
/// made is taken away again.
pub async fn run(
    ground: &impl Ground,
    explain: &impl Explain,
    pace: &Pace,
    progress: &impl Progress,
    interrupt: impl Future<Output = ()>,
) -> Result<Option<Outcome>, GroundError> {
    let tried = tokio::select! {
        outcome = attempt(ground, explain, pace, progress) => outcome.map(Some),
        () = interrupt => Ok(None),
    };
    progress.stage("taking everything away again");
    let left = clean(ground).await.err();
    match (tried, left) {
        (Ok(Some(outcome)), left) => Ok(Some(Outcome {
            left: left.map(|why| why.0),
            ..outcome
        })),
        (tried, None) => tried,
        (Ok(None), Some(left)) => Err(left),
        (Err(failed), Some(left)) => Err(GroundError(format!("{failed}; and {left}"))),
    }
}

/// Who waits for it is told in the end what may be left.
async fn clean(ground: &impl Ground) -> Result<(), GroundError> {
    match timeout(CLEANING, ground.clean()).await {
        Ok(cleaned) => cleaned,
        // It may be through all the same, if this machine is slow.
        Err(_) if timeout(LOOKING, ground.is_clean()).await == Ok(true) => Ok(()),
        Err(_) => Err(GroundError(format!(
            "it could not be taken away again within {} s; {}",
            CLEANING.as_secs(),
            ground.left()
        ))),
    }
}

async fn attempt(
    ground: &impl Ground,
    explain: &impl Explain,
    pace: &Pace,
    progress: &impl Progress,
) -> Result<Outcome, GroundError> {
    let begun = Instant::now();
    progress.stage("looking at the cluster");
    for left in ground.clear().await? {
        progress.stage(&format!("took away what an earlier run left: {left}"));
    }
    let plan = Plan::of(&ground.world().await?);
    progress.stage(&format!(
        "starting {} pods on {} nodes",
        plan.nodes.len() * 3,
        plan.nodes.len()
    ));
    let laid = ground.prepare(&plan).await?;
    progress.stage(&format!("trying {} ways", plan.cases.len()));
    let mut done = try_all(ground, &laid, &plan, pace, progress).await;
    forgive_outside(&mut done, &laid);
    let failed = done
        .iter()
        .any(|one| matches!(one.verdict, Verdict::Failed { .. }));
    if failed {
        progress.stage("asking the agents why");
        explain_all(ground, explain, &laid, pace, &mut done).await;
    }
    let missing = laid.missing.clone();
    let wrong = match failed || !missing.is_empty() || !plan.unfit.is_empty() {
        true => explain.wrong().await,
        false => Vec::new(),
    };
    Ok(Outcome {
        plan,
        done,
        missing,
        wrong,
        left: None,
        took: begun.elapsed(),
    })
}

/// About in the order of the plan, so many at a time.
async fn try_all(
    ground: &impl Ground,
    laid: &Laid,
    plan: &Plan,
    pace: &Pace,
    progress: &impl Progress,
) -> Vec<Done> {
    let all = plan.cases.len();
    let numbered = plan.cases.iter().enumerate();
    let failures = AtomicUsize::new(0);
    let tries = numbered.map(async |(number, case)| {
        let one = try_case(ground, laid, pace, &failures, case).await;
        (number, one)
    });
    let mut tries = stream::iter(tries).buffer_unordered(pace.parallel.max(1));
    let mut done = Vec::with_capacity(all);
    while let Some((number, one)) = tries.next().await {
        progress.case(&one, done.len() + 1, all);
        done.push((number, one));
    }
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, one)| one).collect()
}

/// `failures` counts those that failed after all their tries.
async fn try_case(
    ground: &impl Ground,
    laid: &Laid,
    pace: &Pace,
    failures: &AtomicUsize,
    case: &Case,
) -> Done {
    let begun = Instant::now();
    let again = match failures.load(Ordering::Relaxed) {
        BROKEN.. if !case.must_not_pass() => &[],
        _ => pace.again.as_slice(),
    };
    let verdict = verdict(ground, laid, again, case).await;
    if matches!(verdict, Verdict::Failed { .. }) {
        failures.fetch_add(1, Ordering::Relaxed);
    }
    Done {
        case: case.clone(),
        verdict,
        took: begun.elapsed(),
    }
}

/// What must pass is tried again, because what was made may not have reached every node yet. What
/// must not pass has to hold each time.
async fn verdict(ground: &impl Ground, laid: &Laid, again: &[Duration], case: &Case) -> Verdict {
    let failed = |reason| Verdict::Failed {
        reason,
        why: Vec::new(),
    };
    let Some(place) = laid.spots.get(&case.from) else {
        return Verdict::Skipped("the pod that asks does not run".to_owned());
    };
    if let Target::Spot(spot) = case.to
        && laid.missing.contains_key(&spot)
    {
        return Verdict::Skipped("the pod that answers does not run".to_owned());
    }
    let command = match probe::command(case, laid) {
        Ok(command) => command,
        Err(reason) => return failed(reason),
    };
    let tries = match case.must_not_pass() {
        true => again.len().min(1),
        false => again.len(),
    };
    let mut again = again.iter().take(tries);
    loop {
        let judged = match ground.run(place, &command, COMMAND).await {
            Ok(ran) => verdict::judge(case, laid, &ran),
            Err(error) => Err(error.to_string()),
        };
        let wait = again.next();
        match (judged, wait, case.must_not_pass()) {
            (Ok(()), _, false) | (Ok(()), None, true) => return Verdict::Passed,
            (Err(reason), None, _) | (Err(reason), _, true) => return failed(reason),
            (Ok(()), Some(wait), true) | (Err(_), Some(wait), false) => {
                tokio::time::sleep(*wait).await;
            }
        }
    }
}

/// An address outside that no one named, and that the node itself does not reach, says nothing
/// about its pods.
fn forgive_outside(done: &mut [Done], laid: &Laid) {
    let unreached: Vec<Case> = done
        .iter()
        .filter(|one| one.case.group == Group::Outside)
        .filter(|one| one.case.from == Spot::host(one.case.from.node))
        .filter(|one| matches!(one.verdict, Verdict::Failed { .. }))
        .map(|one| one.case.clone())
        .collect();
    for one in done
        .iter_mut()
        .filter(|one| one.case.group == Group::Outside)
    {
        let outside = laid
            .outside
            .iter()
            .find(|outside| outside.family == one.case.family);
        let Some(outside) = outside.filter(|outside| !outside.named) else {
            continue;
        };
        let same =
            |case: &Case| case.from.node == one.case.from.node && case.family == one.case.family;
        if unreached.iter().any(same) {
            one.verdict = Verdict::Skipped(format!(
                "the node itself does not reach {}: `--outside URL` names another address",
                outside.url
            ));
        }
    }
}

/// Asks the agents about some failures of each group, one question for all that fails between the same
/// two, and each pod that sent for the address that it sends from.
async fn explain_all(
    ground: &impl Ground,
    explain: &impl Explain,
    laid: &Laid,
    pace: &Pace,
    done: &mut [Done],
) {
    let failed = |one: &&Done| matches!(one.verdict, Verdict::Failed { .. });
    // The first that failed between two, of each group; and the question about it.
    let mut pairs: BTreeMap<(Group, Family, Spot, Target), (String, String)> = BTreeMap::new();
    let mut asked: BTreeMap<Group, usize> = BTreeMap::new();
    let mut senders: BTreeMap<Spot, &Case> = BTreeMap::new();
    for one in done.iter().filter(failed) {
        senders.entry(one.case.from).or_insert(&one.case);
        let asked = asked.entry(one.case.group).or_default();
        if *asked < EXPLAINED
            && let Entry::Vacant(pair) = pairs.entry(pair(&one.case))
            && let Some(question) = probe::question(&one.case, laid)
        {
            pair.insert(question);
            *asked += 1;
        }
    }
    let questions: BTreeSet<_> = pairs.values().cloned().collect();
    let answers = stream::iter(questions).map(async |(source, destination)| {
        let answer = explain.why(&source, &destination).await;
        ((source, destination), answer)
    });
    let answers: BTreeMap<_, _> = answers
        .buffer_unordered(pace.parallel.max(1))
        .collect()
        .await;
    let senders =
        stream::iter(senders).map(async |(spot, case)| (spot, stranger(ground, laid, case).await));
    let senders: BTreeMap<_, _> = senders
        .buffer_unordered(pace.parallel.max(1))
        .collect()
        .await;
    for one in done {
        let Verdict::Failed { why, .. } = &mut one.verdict else {
            continue;
        };
        why.extend(senders.get(&one.case.from).cloned().flatten());
        let question = pairs.get(&pair(&one.case));
        let answer = question.and_then(|question| answers.get(question));
        why.extend(answer.into_iter().flatten().cloned());
    }
}

/// Between whom a case is.
fn pair(case: &Case) -> (Group, Family, Spot, Target) {
    (case.group, case.family, case.from, case.to)
}

/// What a pod sends with, if that is not its own address: its node drops that as forged.
async fn stranger(ground: &impl Ground, laid: &Laid, case: &Case) -> Option<String> {
    let place = laid.spots.get(&case.from)?;
    let command = probe::sender(case, laid)?;
    let ran = ground.run(place, &command, COMMAND).await.ok()?;
    verdict::forged(place, &ran)
}

/// What was not tried, each reason once for a group.
pub fn skipped(outcome: &Outcome) -> Vec<Skipped> {
    let mut all = outcome.plan.skipped.clone();
    for done in &outcome.done {
        if let Verdict::Skipped(reason) = &done.verdict {
            let skipped = Skipped {
                group: done.case.group,
                reason: reason.clone(),
            };
            if !all.contains(&skipped) {
                all.push(skipped);
            }
        }
    }
    all
}
