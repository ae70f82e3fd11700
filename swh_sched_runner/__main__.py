import sys


def main() -> None:
    """Run the program and exit. Ctrl-C while its modules are still being imported is no error either."""
    try:
        from swh_sched_runner.cli import main as cli_main

        cli_main()
    except KeyboardInterrupt:
        sys.stderr.write("swh-sched-runner: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
