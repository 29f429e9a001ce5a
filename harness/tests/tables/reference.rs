//! `striped` against the reference, `mutex`, to the step: chain limits, expiry and evictions included.

use super::*;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Seen {
    Confirm(&'static str, Option<(Direction, Direction, KeyV4)>),
    TooLong,
    Lookup(Option<(Direction, KeyV4)>),
    Evicted(u32, Nanos),
}

/// A run of random calls on a table of few buckets, and all that could be seen of it.
fn walk<T: FlowTable<KeyV4>>(seed: u64, buckets: usize) -> (Vec<Seen>, Option<Vec<u64>>) {
    let mut rng = WorkerRng::new(seed, 0);
    let table = T::new(&config(1024, buckets));
    let mut worker = table.worker();
    let mut now = SECOND;
    let mut seen = Vec::new();
    for _ in 0..600 {
        let udp = rng.below(2) == 0;
        let number = rng.below(200) as u16;
        match rng.below(20) {
            0..12 => {
                let (original, reply) = (
                    key(protocol(udp), 0, number),
                    key(protocol(udp), 1, rng.below(400) as u16),
                );
                let timeout = SECOND * (1 + u64::from(rng.below(40)));
                let id = unconfirmed(&table, &mut worker, original, reply, timeout).unwrap();
                let outcome = confirm(&table, &mut worker, id, now, rng.next_u32());
                let about = |clash: Clash| {
                    let winner = table.slab().entry(clash.winner).key(Direction::Reply);
                    Some((clash.key, clash.winner_key, winner))
                };
                seen.push(match outcome {
                    Confirmed::Inserted => Seen::Confirm("inserted", None),
                    Confirmed::ReplyOnly(clash) => Seen::Confirm("reply-only", about(clash)),
                    Confirmed::Refused(Refusal::Clash(clash)) => {
                        Seen::Confirm("refused", about(clash))
                    }
                    Confirmed::Refused(_) => Seen::TooLong,
                    Confirmed::Merged(clash) => {
                        let about = about(clash);
                        table.release(&mut worker, clash.winner);
                        Seen::Confirm("merged", about)
                    }
                });
            }
            12..18 => {
                let wanted = key(protocol(udp), rng.below(2), number);
                let hit = table.lookup(&mut worker, &wanted, now);
                seen.push(Seen::Lookup(hit.map(|hit| {
                    let reply = table.slab().entry(hit.id).key(Direction::Reply);
                    table.release(&mut worker, hit.id);
                    (hit.direction, reply)
                })));
            }
            18 => {
                let near = key(protocol(udp), 0, number);
                let drop = table.early_drop(&mut worker, &near, now, &|entry| {
                    entry.key(Direction::Original).tuple().src_key % 3 == 0
                });
                seen.push(Seen::Evicted(drop.evicted, now));
            }
            _ => now += u64::from(rng.below(2_000)) * 1_000_000,
        }
        drain(&table, &mut worker);
    }
    assert_eq!(
        table.take_search_restarts(&mut worker),
        0,
        "one thread is never carried off"
    );
    let chains = table.chain_lengths().map(|lengths| lengths.histogram);
    (seen, chains)
}

#[test]
fn striped_does_what_the_reference_does_step_by_step() {
    for seed in 0..40 {
        for buckets in [1, 3, 16, 2048] {
            let reference = walk::<MutexTable<KeyV4>>(seed, buckets);
            let striped = walk::<StripedTable<KeyV4>>(seed, buckets);
            assert_eq!(striped, reference, "seed {seed}, {buckets} buckets");
        }
    }
}

#[test]
fn the_reference_walk_meets_every_outcome() {
    let seen = walk::<MutexTable<KeyV4>>(1, 3).0;
    let met = |wanted: fn(&Seen) -> bool| seen.iter().any(wanted);
    assert!(met(|s| matches!(s, Seen::Confirm("inserted", _))));
    assert!(met(|s| matches!(s, Seen::Confirm("reply-only", _))));
    assert!(met(|s| matches!(s, Seen::Confirm("refused", _))));
    assert!(met(|s| matches!(s, Seen::TooLong)));
    assert!(met(|s| matches!(s, Seen::Lookup(Some(_)))));
    assert!(met(|s| matches!(s, Seen::Evicted(1.., _))));
}
