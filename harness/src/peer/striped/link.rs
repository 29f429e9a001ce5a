//! Links of a chain, in 32 bits: to a node, or an end marker that says whose chain ends here
//! (`hlist_nulls`, rculist_nulls.h).

use clashtrack_engine::tuple::Direction;

use super::CAPACITY_MAX;

const END: u32 = 1 << 31;
const _: () = assert!(
    2 * CAPACITY_MAX <= END as usize,
    "a node number leaves the marker bit free"
);

/// A link of a chain: to a node, or the end marker of a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Node(Node),
    End { bucket: u32 },
}

/// One of an entry's two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Node {
    /// The entry's number.
    pub(super) index: u32,
    /// Which of the entry's keys.
    pub(super) direction: Direction,
}

impl Node {
    /// Place of the node's own link in `next`.
    pub(super) fn place(self) -> usize {
        self.index as usize * 2 + self.direction.index()
    }
}

impl Link {
    pub(super) fn pack(self) -> u32 {
        match self {
            Link::Node(node) => node.index << 1 | node.direction as u32,
            Link::End { bucket } => END | bucket,
        }
    }

    pub(super) fn unpack(word: u32) -> Link {
        if word & END != 0 {
            return Link::End {
                bucket: word & !END,
            };
        }
        let direction = match word & 1 {
            0 => Direction::Original,
            _ => Direction::Reply,
        };
        Link::Node(Node {
            index: word >> 1,
            direction,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_a_node_or_the_end_of_a_bucket() {
        let links = [
            Link::End { bucket: 0 },
            Link::End {
                bucket: u32::MAX >> 1,
            },
            Link::Node(Node {
                index: 0,
                direction: Direction::Original,
            }),
            Link::Node(Node {
                index: CAPACITY_MAX as u32 - 1,
                direction: Direction::Reply,
            }),
        ];
        for link in links {
            assert_eq!(Link::unpack(link.pack()), link);
        }
    }
}
