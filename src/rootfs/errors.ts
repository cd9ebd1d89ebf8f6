/**
 * What a failed call on a file means to who migrates.
 */
import { DmigrateError, messageOf } from "../core/errors.ts";
import { showPath } from "./inode.ts";

/** The error for a call that failed on `path`. Errors that already say what they mean stay as they are. */
export function fileError(action: string, path: string, cause: unknown): DmigrateError {
  if (cause instanceof DmigrateError && cause.code !== "KERNEL") return cause;
  const code = systemCode(cause);
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new DmigrateError(
      "NO_SPACE",
      `No space left to ${action} ${showPath(path)} (${code}); free space or raise the quota where Docker keeps its data`,
      cause,
    );
  }
  const remedy = REMEDIES[code ?? ""] ?? "check the file system and the kernel's log";
  return new DmigrateError("ROOTFS", `Cannot ${action} ${showPath(path)}: ${code ?? messageOf(cause)}; ${remedy}`, cause);
}

const REMEDIES: Readonly<Record<string, string>> = {
  ENOTSUP: "put Docker's data on a file system that keeps such attributes, like ext4, xfs or btrfs",
  EPERM: "run the agent as root with all capabilities",
  EROFS: "mount the file system writable",
  EFBIG: "put Docker's data on a file system for files of that size",
  EMFILE: "raise the agent's limit of open files",
};

/** The code of a system call's error, like "ENOENT", wherever in the chain of causes it stands. */
function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if ("code" in error && "syscall" in error && typeof error.code === "string") return error.code;
  return systemCode(error.cause);
}
