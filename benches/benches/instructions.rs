//! Did a hot operation become dearer, by one instruction in fifty? The exact gate; everything about it is in
//! [`clashtrack_benches::gate`].

use std::process::ExitCode;

fn main() -> ExitCode {
    clashtrack_benches::gate::main()
}
