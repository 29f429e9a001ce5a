# Sourced by .ci/loom, .ci/shuttle and .ci/mutations: how what a checker runs is compiled.
# Compiled often and run for a minute: no link-time optimisation, no debug information.
export CARGO_INCREMENTAL=0
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=64
export CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_OPT_LEVEL=1
