"""The smallest useful program: one trajectory, three calls, one reward."""

import asyncio

from toolfleet.producer import Fault, Fleet


async def main() -> None:
    """Let a trajectory write a program, then see whether it works."""
    async with Fleet.connect() as fleet, fleet.trajectory() as t:
        await t.write_file("/work/hello.sh", "echo hello, $1\n")
        said = await t.terminal("bash hello.sh world", workdir="/work")
        print("it said:", said.output.strip())

        check = await t.terminal("test \"$(bash hello.sh you)\" = 'hello, you'", workdir="/work", timeout=10)
        if check.fault is Fault.INFRASTRUCTURE:
            print("no reward: the fleet failed, not the policy")
        else:
            print("reward:", float(check.ok))


if __name__ == "__main__":
    asyncio.run(main())
