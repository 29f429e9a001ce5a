//! Rules of iptables: what is read, what is refused, and that no text does harm. One program, so that it is linked once.

mod errors;
mod properties;
mod reading;
