//! What a test came to, as JUnit writes it: a suite for each group, a case for each way.

use podwire_agent::text::printable;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::test::case::Group;
use crate::test::run::{Outcome, Verdict};

/// The report as XML, or why it cannot be written.
pub fn render(outcome: &Outcome) -> Result<String, quick_junit::SerializeError> {
    let mut report = Report::new("podwire test");
    report.set_time(outcome.took);
    let mut nodes = TestSuite::new("nodes");
    for (node, reason) in &outcome.plan.unfit {
        nodes.add_test_case(failed(node, reason, &[]));
    }
    for (spot, reason) in &outcome.missing {
        nodes.add_test_case(failed(&outcome.plan.spot(*spot), reason, &outcome.wrong));
    }
    if nodes.tests > 0 {
        report.add_test_suite(nodes);
    }
    for group in Group::ALL {
        let mut suite = TestSuite::new(group.title());
        for skipped in outcome.plan.skipped.iter().filter(|one| one.group == group) {
            let mut status = TestCaseStatus::skipped();
            status.set_message(printable(&skipped.reason).into_owned());
            suite.add_test_case(TestCase::new(
                printable(&skipped.reason).into_owned(),
                status,
            ));
        }
        for done in outcome.done.iter().filter(|done| done.case.group == group) {
            let name = outcome.plan.describe(&done.case);
            let mut case = match &done.verdict {
                Verdict::Passed => {
                    TestCase::new(printable(&name).into_owned(), TestCaseStatus::success())
                }
                Verdict::Failed { reason, why } => failed(&name, reason, why),
                Verdict::Skipped(reason) => {
                    let mut status = TestCaseStatus::skipped();
                    status.set_message(printable(reason).into_owned());
                    TestCase::new(printable(&name).into_owned(), status)
                }
            };
            case.set_time(done.took);
            suite.add_test_case(case);
        }
        if suite.tests > 0 {
            report.add_test_suite(suite);
        }
    }
    report.to_string()
}

fn failed(name: &str, reason: &str, why: &[String]) -> TestCase {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(printable(reason).into_owned());
    let lines: Vec<_> = why.iter().map(|line| printable(line)).collect();
    status.set_description(lines.join("\n"));
    TestCase::new(printable(name).into_owned(), status)
}
