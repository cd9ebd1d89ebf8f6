/** Whether tasks have one address space between them, as after vfork(2) (kcmp(2)). On x86-64. */
import { declare, mustUnless } from "./libc.ts";

const KCMP = 312;
const KCMP_VM = 1;
const SAME = 0;
const ESRCH = 3;

const syscall = declare<(number: number, one: number, other: number, type: number, first: number, second: number) => number>(
  "long syscall(long number, int one, int other, int type, unsigned long first, unsigned long second)",
);

/** False also if one of them has ended. Throws KERNEL. */
export function shareMemory(one: number, other: number): boolean {
  return mustUnless("kcmp", syscall(KCMP, one, other, KCMP_VM, 0, 0), ESRCH) === SAME;
}
