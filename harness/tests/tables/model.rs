//! Every table against a plain model (a hash map from key to owner), one call after the other.

use super::*;

for_each_table!(agrees_with_a_plain_model: mutex = MutexTable, striped = StripedTable, dashmap = DashMapTable, ahash = DashMapAhashTable, papaya = PapayaTable, scc = SccTable);
for_each_table!(an_expired_connection_is_removed_by_the_lookup_that_meets_it: mutex = MutexTable, striped = StripedTable, dashmap = DashMapTable, ahash = DashMapAhashTable, papaya = PapayaTable, scc = SccTable);

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Protocol, original key, reply key: small numbers, so that they clash.
    Confirm(bool, u16, u16),
    Lookup(bool, u32, u16),
    Remove(bool, u32, u16),
    /// Time passes; what has expired is looked up, so that no table still holds it.
    Expire(Nanos),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (any::<bool>(), 0..6u16, 0..6u16).prop_map(|(p, o, r)| Op::Confirm(p, o, r)),
        3 => (any::<bool>(), 0..2u32, 0..6u16).prop_map(|(p, s, n)| Op::Lookup(p, s, n)),
        2 => (any::<bool>(), 0..2u32, 0..6u16).prop_map(|(p, s, n)| Op::Remove(p, s, n)),
        1 => (1..3 * SECOND).prop_map(Op::Expire),
    ];
    proptest::collection::vec(op, 1..120)
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct ModelConnection {
    keys: [KeyV4; 2],
    deadline: Nanos,
    reply_only: bool,
}

/// Keys to connections, and nothing else.
#[derive(Default, Debug)]
struct Model {
    owners: HashMap<KeyV4, usize>,
    connections: Vec<ModelConnection>,
}

const TIMEOUT: Nanos = 2 * SECOND;

impl Model {
    fn confirm(&mut self, original: KeyV4, reply: KeyV4, now: Nanos) -> &'static str {
        let loser = ModelConnection {
            keys: [original, reply],
            deadline: now + TIMEOUT,
            reply_only: false,
        };
        let Some(&first) = self
            .owners
            .get(&original)
            .or_else(|| self.owners.get(&reply))
        else {
            self.insert(loser);
            return "inserted";
        };
        if !original.tuple().protocol.allows_clash() {
            return "refused";
        }
        if self.connections[first].keys == loser.keys {
            return "merged";
        }
        match self.owners.get(&reply) {
            Some(&second) if self.connections[second].keys == loser.keys => "merged",
            Some(_) => "refused",
            None => {
                self.insert(ModelConnection {
                    deadline: now + REPLY_ONLY_TIMEOUT,
                    reply_only: true,
                    ..loser
                });
                "reply-only"
            }
        }
    }

    fn insert(&mut self, connection: ModelConnection) {
        let number = self.connections.len();
        self.connections.push(connection);
        if !connection.reply_only {
            self.owners.insert(connection.keys[0], number);
        }
        self.owners.insert(connection.keys[1], number);
    }

    fn find(&self, key: KeyV4) -> Option<ModelConnection> {
        self.owners.get(&key).map(|&n| self.connections[n])
    }

    fn remove(&mut self, key: KeyV4) -> bool {
        match self.owners.get(&key).copied() {
            Some(number) => {
                self.owners.retain(|_, owner| *owner != number);
                true
            }
            None => false,
        }
    }

    fn expire(&mut self, now: Nanos) {
        let connections = &self.connections;
        self.owners
            .retain(|_, owner| connections[*owner].deadline > now);
    }
}

fn outcome_name(outcome: Confirmed) -> &'static str {
    match outcome {
        Confirmed::Inserted => "inserted",
        Confirmed::Merged(_) => "merged",
        Confirmed::ReplyOnly(_) => "reply-only",
        Confirmed::Refused(_) => "refused",
    }
}

fn agrees_with_a_plain_model<T: FlowTable<KeyV4>>() {
    proptest!(ProptestConfig::with_cases(64), |(ops in ops())| {
        let table = T::new(&config(512, 64));
        let mut worker = table.worker();
        let mut model = Model::default();
        let mut now = SECOND;
        for op in ops {
            match op {
                Op::Confirm(udp, original, reply) => {
                    let p = protocol(udp);
                    let (original, reply) = (key(p, 0, original), key(p, 1, reply));
                    let id = unconfirmed(&table, &mut worker, original, reply, TIMEOUT).unwrap();
                    let outcome = confirm(&table, &mut worker, id, now, 0);
                    prop_assert_eq!(outcome_name(outcome), model.confirm(original, reply, now), "{:?}", op);
                    if let Confirmed::Merged(clash) = outcome {
                        prop_assert!(!table.release(&mut worker, clash.winner));
                    }
                }
                Op::Lookup(udp, side, number) => {
                    let wanted = key(protocol(udp), side, number);
                    let hit = table.lookup(&mut worker, &wanted, now);
                    let seen = hit.map(|hit| {
                        let entry = table.slab().entry(hit.id);
                        assert_eq!(entry.key(hit.direction), wanted);
                        ModelConnection {
                            keys: [entry.key(Direction::Original), entry.key(Direction::Reply)],
                            deadline: entry.deadline(),
                            reply_only: entry.status().contains(Status::NAT_CLASH),
                        }
                    });
                    prop_assert_eq!(seen, model.find(wanted), "{:?}", op);
                    if let Some(hit) = hit {
                        prop_assert!(!table.release(&mut worker, hit.id));
                    }
                }
                Op::Remove(udp, side, number) => {
                    let wanted = key(protocol(udp), side, number);
                    let removed = table.lookup(&mut worker, &wanted, now).is_some_and(|hit| {
                        let removed = table.remove(&mut worker, hit.id);
                        assert!(!table.remove(&mut worker, hit.id), "only once");
                        assert!(!table.release(&mut worker, hit.id), "the remover still holds it");
                        assert!(table.release(&mut worker, hit.id));
                        removed
                    });
                    prop_assert_eq!(removed, model.remove(wanted), "{:?}", op);
                }
                Op::Expire(dt) => {
                    now += dt;
                    for p in [Protocol::UDP, Protocol::TCP] {
                        for wanted in (0..2).flat_map(|side| (0..6).map(move |n| key(p, side, n))) {
                            if let Some(hit) = table.lookup(&mut worker, &wanted, now) {
                                table.release(&mut worker, hit.id);
                            }
                        }
                    }
                    drain(&table, &mut worker);
                    model.expire(now);
                }
            }
            let owners: std::collections::HashSet<_> = model.owners.values().collect();
            prop_assert_eq!(table.slab().confirmed().count(), owners.len());
        }
    });
}

fn an_expired_connection_is_removed_by_the_lookup_that_meets_it<T: FlowTable<KeyV4>>() {
    let table = T::new(&config(4, 4));
    let mut worker = table.worker();
    let (original, reply) = (key(Protocol::UDP, 0, 1), key(Protocol::UDP, 1, 1));
    let id = unconfirmed(&table, &mut worker, original, reply, SECOND).unwrap();
    assert_eq!(
        confirm(&table, &mut worker, id, SECOND, 0),
        Confirmed::Inserted
    );
    assert_eq!(table.lookup(&mut worker, &reply, 2 * SECOND), None);
    assert_eq!(table.take_removed(&mut worker), Some(id));
    assert!(table.slab().entry(id).status().contains(Status::DYING));
    assert_eq!(
        table.lookup(&mut worker, &original, SECOND),
        None,
        "by neither key"
    );
    assert!(table.release(&mut worker, id));
    assert_eq!(free_places(&table), 4);
}
