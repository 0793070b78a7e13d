"""What a trainer imports: `Fleet`, its trajectories, and the blocking twin `SyncFleet`."""

from toolfleet.config.contract import Fault, Status, ToolResult
from toolfleet.producer.fleet import Fleet
from toolfleet.producer.sync import SyncFleet, SyncTrajectory
from toolfleet.producer.trajectory import Trajectory
from toolfleet.producer.transfer import Moved
from toolfleet.producer.trees import Tree

__all__ = ["Fault", "Fleet", "Moved", "Status", "SyncFleet", "SyncTrajectory", "ToolResult", "Trajectory", "Tree"]
