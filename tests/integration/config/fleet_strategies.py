"""What steps of the fleet machine are drawn from: who, which one, and how late."""

from hypothesis import strategies as st
from integration.config.fleet_bench import PRODUCERS, SLOTS, TRAJECTORIES

trajectories = st.sampled_from(TRAJECTORIES)
workers = st.sampled_from(sorted(SLOTS))
producers = st.sampled_from(PRODUCERS)
numbers = st.sampled_from([0, 1])
#: How many holders or sandboxes ago: mostly the present one, sometimes one that should know better.
ago = st.sampled_from([0, 0, 0, 1])
#: Which call: see `FleetBench.pick`.
picks = st.integers(0, 5)
seldom = st.sampled_from([False, False, False, True])
