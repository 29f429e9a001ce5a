//! What a history says in which one thread's last operation was given up: it took effect
//! once, or never. For `abandoned` (shuttle) and `abandoned_orders` (loom).

use std::collections::HashSet;

use super::history::{Answer, CANONS, ClashStep2, History, Map, Op, Scenario, explained};

/// Accesses that one call may make while another thread stands still. The longest seen is under 200.
pub(super) const ACCESSES_OF_A_CALL: u64 = 1_000;

impl Scenario {
    /// Is there an order in which the operation that `victim` was in took effect once or never?
    pub(super) fn assert_explained_without(
        &self,
        victim: usize,
        map: &Map,
        answers: &[Vec<Answer>],
        after: &History,
    ) {
        let histories: Vec<History> = self
            .threads
            .iter()
            .zip(answers)
            .map(|(ops, answers)| ops.iter().cloned().zip(answers.iter().cloned()).collect())
            .collect();
        let lost = self.threads[victim].get(answers[victim].len());
        let is_explained = |effect: Option<Answer>| {
            let mut histories = histories.clone();
            if let (Some(answer), Some(op)) = (effect, lost) {
                histories[victim].push((op.clone(), answer));
            }
            let mut at = vec![0; histories.len()];
            explained(map, &histories, &mut at, after, &mut HashSet::new())
        };
        let uids = map
            .values()
            .copied()
            .chain(self.threads.iter().flatten().filter_map(uid_of));
        let effects: Vec<Answer> = match lost {
            None | Some(Op::Look(_)) => vec![],
            Some(Op::Connect {
                step: ClashStep2::Drop,
                ..
            }) => vec![Answer::Inserted],
            Some(Op::Connect { .. }) => vec![Answer::Inserted, Answer::ReplyOnly],
            Some(Op::Remove(_)) => uids.map(|uid| Answer::Removed(Some(uid))).collect(),
            Some(Op::RemoveUid(_)) => vec![Answer::RemovedUid(true)],
        };
        assert!(
            is_explained(None) || effects.into_iter().any(|effect| is_explained(Some(effect))),
            "{}: thread {} gave {lost:?} up, no order explains {histories:#?}\nthen {after:?}",
            self.name,
            victim + 1
        );
    }
}

fn uid_of(op: &Op) -> Option<u32> {
    match op {
        Op::Connect { uid, .. } => Some(*uid),
        _ => None,
    }
}

/// A look at every key.
pub(super) fn looks() -> Vec<Op> {
    (0..CANONS)
        .flat_map(|c| [Op::Look((c, 0)), Op::Look((c, 1))])
        .collect()
}
