//! Before anything is timed: every table answers the same seeded operations with the same results.
//!
//! A table that is fast because it does something else is found out here. One worker connects, looks up and removes
//! over a small pool of tuples, so that most confirms meet a taken key; what each operation came to (which
//! connection, which key, which way a clash went) is folded into a running digest, and compared with the
//! reference table's.

use std::collections::HashMap;

use clashtrack_engine::addr::{Addr, Family};
use clashtrack_engine::clash::KernelClashPolicy;
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::mutex::MutexTable;
use clashtrack_engine::table::slab::EntryId;
use clashtrack_engine::table::{Clash, Confirmed, FlowTable, Refusal, TableConfig};
use clashtrack_engine::tuple::{Protocol, Tuple};

use super::hand::{LONG, NOW};
use crate::peer::{self, TableVisitor};

/// A table that gives other answers than the reference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{table} answers operation {operation} of {OPERATIONS} (seed {seed}) in another way than {reference}: its figures would be those of another thing",
    reference = MutexTable::<KeyV4>::NAME
)]
pub struct OtherAnswer {
    /// The table.
    pub table: &'static str,
    /// The first operation whose result differs, from 0.
    pub operation: usize,
    /// Seed of the operations.
    pub seed: u64,
}

/// Operations that each table is asked.
pub const OPERATIONS: usize = 20_000;

/// Asks all these tables.
///
/// # Errors
/// [`OtherAnswer`] of the first table that differs from the reference.
pub fn compare(tables: &[&'static str], seed: u64) -> Result<(), OtherAnswer> {
    let expected = digests::<MutexTable<KeyV4>>(seed);
    for &table in tables {
        if let Some(given) = peer::visit(table, Ask(seed)) {
            agree(table, &given, &expected, seed)?;
        }
    }
    Ok(())
}

/// Asks a table of the caller's own.
///
/// # Errors
/// [`OtherAnswer`] if it differs from the reference.
pub fn compare_own<T: FlowTable<KeyV4>>(seed: u64) -> Result<(), OtherAnswer> {
    let expected = digests::<MutexTable<KeyV4>>(seed);
    agree(T::NAME, &digests::<T>(seed), &expected, seed)
}

fn agree(
    table: &'static str,
    given: &[u64],
    expected: &[u64],
    seed: u64,
) -> Result<(), OtherAnswer> {
    match given.iter().zip(expected).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(operation) => Err(OtherAnswer {
            table,
            operation,
            seed,
        }),
    }
}

struct Ask(u64);

impl TableVisitor for Ask {
    type Output = Vec<u64>;

    fn visit<T: FlowTable<KeyV4> + 'static>(self) -> Vec<u64> {
        digests::<T>(self.0)
    }
}

/// A running digest: FNV-1a over whole words.
struct Digest(u64);

impl Digest {
    fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

/// The digest after each operation.
fn digests<T: FlowTable<KeyV4>>(seed: u64) -> Vec<u64> {
    let mut rng = WorkerRng::new(seed, usize::MAX - 3);
    let hash_key = HashKey(rng.next_u64(), rng.next_u64());
    let table = T::new(&TableConfig::new(4096, hash_key));
    let mut asked = Asked {
        worker: table.worker(),
        numbers: HashMap::new(),
        live: Vec::new(),
        made: 0,
        digest: Digest(0xcbf2_9ce4_8422_2325),
    };
    (0..OPERATIONS)
        .map(|_| {
            table.begin(&mut asked.worker);
            match rng.below(10) {
                0..=4 => asked.connect(&table, &mut rng),
                5..=7 => asked.look_up(&table, &mut rng),
                _ => asked.remove(&table, &mut rng),
            }
            table.end(&mut asked.worker);
            asked.digest.0
        })
        .collect()
}

/// One table under questions. Connections are numbered in the order in which they are made, because
/// tables give them entries in orders of their own.
struct Asked<W> {
    worker: W,
    numbers: HashMap<EntryId, u64>,
    live: Vec<EntryId>,
    made: u64,
    digest: Digest,
}

impl<W> Asked<W> {
    fn connect<T: FlowTable<KeyV4, Worker = W>>(&mut self, table: &T, rng: &mut WorkerRng) {
        let original = original(rng);
        let reply = reply(&original, rng);
        let Some(id) = table.allocate(&mut self.worker) else {
            self.digest.add(1);
            return;
        };
        let entry = table.slab().entry(id);
        entry.set_keys(KeyV4::pack(&original, 0), KeyV4::pack(&reply, 0));
        entry.set_deadline(LONG);
        let number = self.made;
        self.made += 1;
        let random = rng.next_u32();
        match table.confirm(&mut self.worker, id, NOW, random, &mut KernelClashPolicy) {
            Confirmed::Inserted => {
                self.digest.add(2);
                self.keep(table, id, number);
            }
            Confirmed::ReplyOnly(clash) => {
                self.digest.add(3);
                self.clash(&clash);
                self.keep(table, id, number);
            }
            Confirmed::Merged(clash) => {
                self.digest.add(4);
                self.clash(&clash);
                table.release(&mut self.worker, clash.winner);
            }
            Confirmed::Refused(Refusal::Clash(clash)) => {
                self.digest.add(5);
                self.clash(&clash);
            }
            Confirmed::Refused(_) => self.digest.add(6),
        }
    }

    fn keep<T: FlowTable<KeyV4, Worker = W>>(&mut self, table: &T, id: EntryId, number: u64) {
        self.numbers.insert(id, number);
        self.live.push(id);
        table.release(&mut self.worker, id);
    }

    fn clash(&mut self, clash: &Clash) {
        let winner = self.numbers.get(&clash.winner).copied();
        self.digest.add(winner.map_or(0, |number| number + 1));
        self.digest.add(clash.key as u64);
        self.digest.add(clash.winner_key as u64);
        self.digest.add(u64::from(clash.at_reply_only));
    }

    fn look_up<T: FlowTable<KeyV4, Worker = W>>(&mut self, table: &T, rng: &mut WorkerRng) {
        let original = original(rng);
        let asked = if rng.next_u32() & 1 == 0 {
            original
        } else {
            reply(&original, rng)
        };
        let keys = [KeyV4::pack(&asked, 0)];
        let mut hits = [None];
        table.lookup_batch(&mut self.worker, &keys, NOW, &mut hits);
        match hits[0] {
            None => self.digest.add(7),
            Some(hit) => {
                let number = self.numbers.get(&hit.id).copied();
                self.digest.add(number.map_or(0, |number| number + 1));
                self.digest.add(hit.direction as u64);
                table.release(&mut self.worker, hit.id);
            }
        }
        let mut statuses = [None];
        table.status_batch(&mut self.worker, &keys, NOW, &mut statuses);
        for status in [statuses[0], table.status(&mut self.worker, &keys[0], NOW)] {
            self.digest
                .add(status.map_or(0, |status| 1 + u64::from(status.bits())));
        }
    }

    fn remove<T: FlowTable<KeyV4, Worker = W>>(&mut self, table: &T, rng: &mut WorkerRng) {
        if self.live.is_empty() {
            return;
        }
        let at = rng.below(self.live.len() as u32) as usize;
        let id = self.live.swap_remove(at);
        self.numbers.remove(&id);
        let removed = table.remove(&mut self.worker, id);
        self.digest.add(8 + u64::from(removed));
        if removed {
            table.release(&mut self.worker, id);
        }
    }
}

/// One of 512 flows of UDP, whose clashes are resolved.
fn original(rng: &mut WorkerRng) -> Tuple {
    Tuple {
        src: Addr::from_u32(0x0a00_0001 + rng.below(64)),
        dst: Addr::from_u32(0xc612_0001),
        src_key: 4000 + rng.below(8) as u16,
        dst_key: 53,
        family: Family::Ipv4,
        protocol: Protocol::UDP,
    }
}

/// Its reply tuple: without NAT, or behind one of 256 ports.
fn reply(original: &Tuple, rng: &mut WorkerRng) -> Tuple {
    let translated = rng.next_u32() & 1 == 0;
    let (address, port) = if translated {
        (Addr::from_u32(0xcb00_7101), 2000 + rng.below(256) as u16)
    } else {
        (original.src, original.src_key)
    };
    Tuple {
        src: original.dst,
        dst: address,
        src_key: original.dst_key,
        dst_key: port,
        ..*original
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::TABLES;

    #[test]
    fn all_tables_give_the_answers_of_the_reference() {
        let tables: Vec<_> = TABLES.iter().map(|table| table.name).collect();
        for seed in 0..4 {
            assert_eq!(compare(&tables, seed), Ok(()));
        }
    }

    #[test]
    fn another_seed_has_other_answers_from_early_on() {
        let [a, b] = [1, 2].map(digests::<MutexTable<KeyV4>>);
        assert_ne!(a[20], b[20]);
        assert_ne!(a.last(), b.last());
    }
}
