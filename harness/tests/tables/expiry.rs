//! What a lookup does with an expired connection: the contract leaves it open, these tables do as the kernel does.

use super::*;

for_each_table!(
    an_expired_connection_is_removed_by_the_lookup_that_meets_it: mutex = MutexTable, lockfree = LockfreeTable,
    striped = StripedTable, dashmap = DashMapTable, papaya = PapayaTable, scc = SccTable
);

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
    assert_eq!(free_places(&table), table.slab().capacity());
}
