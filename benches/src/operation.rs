//! What is measured: an operation, the question that its cost answers, and one pass of it.

use std::fmt;
use std::time::Duration;

use clashtrack_engine::table::lockfree::Isa;
use criterion::{Criterion, Throughput};

use crate::{nat_choice, packet_path, table, tcp, tuple_and_hash};

/// One hot operation of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// The question, in snake case: criterion's group.
    pub question: &'static str,
    /// What of several that answer the question: criterion's function.
    pub variant: &'static str,
    /// Whether vector instructions of the table are in it, so that its cost depends on [`Isa`].
    pub has_vectors: bool,
    /// Makes everything ready.
    pub prepare: fn(Isa) -> Pass,
}

impl Operation {
    /// Question and variant: the operation's name in baselines and on command lines.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.question, self.variant)
    }
}

/// Some operations done one after the other, with their answers looked at. It leaves everything
/// as it was, so that each pass costs what the one before did.
pub struct Pass {
    /// Operations of a pass.
    pub operations: u64,
    pub(crate) run: Box<dyn FnMut()>,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass")
            .field("operations", &self.operations)
            .finish_non_exhaustive()
    }
}

impl Pass {
    /// A pass of so many operations. `run` panics on a wrong answer.
    #[must_use]
    pub fn new(operations: usize, run: impl FnMut() + 'static) -> Pass {
        Pass {
            operations: operations as u64,
            run: Box::new(run),
        }
    }

    /// Does it once.
    ///
    /// # Panics
    /// On a wrong answer.
    pub fn run(&mut self) {
        (self.run)();
    }
}

/// Between two operations of a pass, where they come one by one: the lines that they touch are
/// counted for each. Only in a build that counts; batches are counted whole.
#[inline(always)]
pub fn next_operation() {
    #[cfg(feature = "tally")]
    clashtrack_engine::sync::tally::next_operation();
}

/// All operations, room by room.
pub fn all() -> impl Iterator<Item = &'static Operation> {
    [
        tuple_and_hash::OPERATIONS,
        table::OPERATIONS,
        nat_choice::OPERATIONS,
        tcp::OPERATIONS,
        packet_path::OPERATIONS,
    ]
    .into_iter()
    .flatten()
}

/// How long criterion looks at one bench: all of them together stay below ten minutes.
#[must_use]
pub fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
}

/// Takes the time of each operation of a room, with the instructions that the table would choose.
pub fn bench_room(criterion: &mut Criterion, operations: &[Operation]) {
    for operation in operations {
        let mut group = criterion.benchmark_group(operation.question);
        let mut pass = (operation.prepare)(Isa::Auto);
        group.throughput(Throughput::Elements(pass.operations));
        group.bench_function(operation.variant, |bencher| bencher.iter(|| pass.run()));
        group.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_operation_has_a_name_of_its_own_and_gives_right_answers_more_than_once() {
        let mut names = BTreeSet::new();
        for operation in all() {
            assert!(names.insert(operation.name()), "{} twice", operation.name());
            for isa in [Isa::Scalar, Isa::Auto] {
                let mut pass = (operation.prepare)(isa);
                assert!(pass.operations > 0, "{}", operation.name());
                for _ in 0..3 {
                    pass.run();
                }
            }
        }
        assert!(names.len() >= 20, "the gate watches {} only", names.len());
    }
}
