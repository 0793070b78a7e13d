"""What a trainer imports: `Fleet`, its trajectories, and the blocking twin `SyncFleet`."""

from toolfleet.config.contract import Fault, Status, ToolResult
from toolfleet.producer.fleet import Fleet
from toolfleet.producer.sync import SyncFleet, SyncTrajectory
from toolfleet.producer.trajectory import Trajectory

__all__ = ["Fault", "Fleet", "Status", "SyncFleet", "SyncTrajectory", "ToolResult", "Trajectory"]
