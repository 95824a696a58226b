"""What scripts with lists of their own use, and where it is."""

from .executors import (
    Executor as Executor,
    LocalExecutor as LocalExecutor,
    Task as Task,
    ray_executor as ray_executor,
)
from .options import (
    add_executor_options as add_executor_options,
    check_executor_options as check_executor_options,
)
from .replica import (
    Made as Made,
    device_name as device_name,
)
