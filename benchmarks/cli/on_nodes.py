"""Commands that are started on every node of a cluster."""

import argparse
import os
from collections.abc import Callable

from paceline.home import make_ready

Command = Callable[[argparse.Namespace], int]


def on_nodes(command: Command) -> Command:
    """Returns a command that can be started on every node of a cluster.

    The process of node 0 runs the command. The others start ranks when it says so.
    """

    def on_node(options: argparse.Namespace) -> int:
        from paceline.benchmarks.nodes.launcher import place

        found = place()
        if found is None or (found.first and found.nodes == 1):
            return command(options)
        if not found.first:
            return 0  # one process a node is enough
        from paceline.benchmarks.nodes.agent import serve
        from paceline.benchmarks.nodes.cluster import gathered
        from paceline.benchmarks.nodes.groups import GROUP, divided, parents_of_other_groups
        from paceline.lightning_modules.backend.launch import interruptible
        from paceline.lightning_modules.backend.local_ranks import start_fork_server

        make_ready()
        size = getattr(options, "nodes_per_trial", None)
        group, own = divided(found, size)
        with interruptible():
            if own.node:
                start_fork_server("paceline.benchmarks.trials.rank")
                return serve(own, options.given, options.wait_for_nodes)
            with gathered(own, options.given, options.wait_for_nodes, group):
                if GROUP in os.environ:
                    return command(options)
                with parents_of_other_groups(found, size):
                    return command(options)

    return on_node
