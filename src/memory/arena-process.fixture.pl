# A process that does to its memory what it is told, and whose memory may be lazy, as CRIU's restore leaves one behind. (In Perl, which every
# Debian has and which, unlike Node, lives on in a forked child.)
#
#     perl arena-process.fixture.pl ARENA-PAGES USED-PAGES [SOCKET PROCESS]
#
# Its memory is an arena of pages, at the same address in every such process, of which the first can be used and the others are not
# accessible. It says at descriptor 3 on which page that begins, and its process id. With a socket those pages are lazy: it waits for a line,
# sends the userfaultfd to lazy-pages.socket and says so. From then on it takes commands there, a line each, and answers each with a line; a
# forked child does the same at the descriptor that it is told. Pages are counted from the beginning of the arena. With ARENA_IS_SHARED in its
# environment the memory is shared with forked children.
use strict;
use warnings;
use POSIX ();
use Socket;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID);

use constant PAGE => 4096;
use constant { NONE => 0, RO => 1, RW => 3, RWX => 7 };              # PROT_*
use constant { FIXED => 0x10, HUGE => 0x40000, DONTNEED => 4, REMOVE => 9 };    # MAP_*, MADV_*
use constant ANONYMOUS => $ENV{ARENA_IS_SHARED} ? 0x21 : 0x22;       # MAP_SHARED or MAP_PRIVATE, and MAP_ANONYMOUS
use constant { MOVE => 3, KEEP => 4 };                               # MREMAP_MAYMOVE | MREMAP_FIXED, MREMAP_DONTUNMAP
use constant { API => 0xc018aa3f, REGISTER => 0xc020aa00 };          # UFFDIO_*
use constant FEATURES => 0x4e;                                       # UFFD_FEATURE_EVENT_FORK, _REMAP, _REMOVE, _UNMAP

my %numbers = (POSIX::uname())[4] eq 'x86_64'
  ? (read => 0, mmap => 9, mprotect => 10, munmap => 11, ioctl => 16, mremap => 25, madvise => 28, sendmsg => 46, userfaultfd => 323, io_setup => 206, mlock => 149)
  : (read => 63, mmap => 222, mprotect => 226, munmap => 215, ioctl => 29, mremap => 216, madvise => 233, sendmsg => 211, userfaultfd => 282, io_setup => 0, mlock => 228);

sub try_call { my ($name, @arguments) = @_; return syscall($numbers{$name}, @arguments) }
sub call { my $result = try_call(@_); die "$_[0]: $!" if $result == -1; return $result }

my ($arena_pages, $used_pages, $socket_file, $process) = @ARGV;
my $arena = call('mmap', 1 << 44, $arena_pages * PAGE, NONE, ANONYMOUS, -1, 0);
sub at { return $arena + $_[0] * PAGE }
sub map_pages { my ($page, $count, $protection) = @_; call('mmap', at($page), $count * PAGE, $protection, ANONYMOUS | FIXED, -1, 0) }

map_pages(0, $used_pages, RW);

my $control = 3;
sub say_line { POSIX::write($control, "$_[0]\n", length("$_[0]\n")) }

sub hear {
  my $line = '';
  while ((POSIX::read($control, my $byte, 1) || 0) == 1) { return $line if $byte eq "\n"; $line .= $byte }
  POSIX::_exit(0);
}

sub become_lazy {
  my $userfaultfd = call('userfaultfd', 02004000);    # O_CLOEXEC | O_NONBLOCK
  call('ioctl', $userfaultfd, API,      my $api   = pack('Q3', 0xaa, FEATURES, 0));
  call('ioctl', $userfaultfd, REGISTER, my $range = pack('Q4', $arena, $used_pages * PAGE, 1, 0));
  socket(my $socket, AF_UNIX, SOCK_STREAM, 0) or die $!;
  connect($socket, sockaddr_un($socket_file)) or die $!;
  syswrite($socket, pack('l', -7));          # a zombie, which has no memory
  syswrite($socket, pack('l', $process));
  my $rights  = pack('Q l l l x4', 20, 1, 1, $userfaultfd);    # SOL_SOCKET, SCM_RIGHTS
  my $byte    = "\0";
  my $vector  = pack('P Q', $byte, 1);
  my $message = pack('Q L x4 P Q P Q l x4', 0, 0, $vector, 1, $rights, length $rights, 0);
  call('sendmsg', fileno($socket), $message, 0);
  syswrite($socket, pack('L', 0x52535446));
  POSIX::close($userfaultfd);
}

# Of a page its number, 0 for zeros, -1 if its bytes do not belong together.
sub value_at {
  my $bytes = unpack('P' . PAGE, pack('J', at($_[0])));
  my $first = substr($bytes, 0, 4);
  return $bytes eq $first x (PAGE / 4) ? unpack('L', $first) : -1;
}

sub wait_for {
  my $byte = pack('J', at($_[0]));
  my $began = clock_gettime(CLOCK_MONOTONIC);
  my $first = unpack('P1', $byte);
  return int((clock_gettime(CLOCK_MONOTONIC) - $began) * 1e9);
}

# All of it in one system call. Returns how many nanoseconds of a processor that took.
sub write_zeros {
  my ($page, $count) = @_;
  open(my $zeros, '<', '/dev/zero') or die $!;
  my $began = clock_gettime(CLOCK_PROCESS_CPUTIME_ID);
  die unless call('read', fileno($zeros), at($page), $count * PAGE) == $count * PAGE;
  return int((clock_gettime(CLOCK_PROCESS_CPUTIME_ID) - $began) * 1e9);
}

sub write_value {
  my ($page, $value) = @_;
  pipe(my $from, my $to) or die $!;
  syswrite($to, pack('L', $value) x (PAGE / 4));
  for (my $done = 0; $done < PAGE;) { $done += call('read', fileno($from), at($page) + $done, PAGE - $done) }
}

# 0 if the kernel refused, maybe halfway: it moves one mapping after the other. Then both places are new memory.
sub move_pages {
  my ($page, $count, $to, $keeps_old) = @_;
  my $bytes = $count * PAGE;
  if (try_call('mremap', at($page), $bytes, $bytes, MOVE | ($keeps_old ? KEEP : 0), at($to)) == -1) {
    map_pages($_, $count, RW) for $page, $to;
    return 0;
  }
  map_pages($page, $count, NONE) unless $keeps_old;
  return 1;
}

my %commands = (
  read  => sub { my ($page, $count) = @_; return join ' ', map { value_at($_) } $page .. $page + $count - 1 },
  # How long it waits for each of so many pages, that far from each other, in nanoseconds; a millisecond between them if they are apart.
  touch => sub {
    my ($page, $count, $stride) = @_;
    return join ' ', map { Time::HiRes::usleep(1000) if abs($stride) > 1; wait_for($page + $_ * $stride) } 0 .. $count - 1;
  },
  write => sub { write_value(@_) },
  zero  => sub { return write_zeros(@_) },
  # Each page gets the next value.
  fill  => sub { my ($page, $count, $value) = @_; write_value($page + $_, $value + $_) for 0 .. $count - 1 },
  # Afterwards the range is not accessible.
  unmap => sub { my ($page, $count) = @_; call('munmap', at($page), $count * PAGE); map_pages($page, $count, NONE) },
  # New memory, which is not lazy.
  map   => sub { map_pages(@_, RW) },
  empty => sub { my ($page, $count) = @_; call('madvise', at($page), $count * PAGE, DONTNEED) },
  # Of shared memory: whoever shares it finds zeros there.
  remove => sub { my ($page, $count) = @_; call('madvise', at($page), $count * PAGE, REMOVE) },
  # Not accessible, but there.
  hide  => sub { my ($page, $count) = @_; call('mprotect', at($page), $count * PAGE, NONE) },
  # Pages of a file that has none any more: who reads them gets SIGBUS.
  cut => sub {
    my ($page, $count) = @_;
    open(my $file, '+>', undef) or die $!;
    syswrite($file, "\1" x ($count * PAGE));
    call('mmap', at($page), $count * PAGE, RW, FIXED | 2, fileno($file), 0);    # MAP_PRIVATE
    write_value($_, 7) for $page .. $page + $count - 1;
    truncate($file, 0);
  },
  # Cuts the mapping into several.
  split => sub { call('mprotect', at($_[0]), PAGE, RWX) },
  move  => sub { return move_pages(@_) },
  # Makes a range longer where it is.
  grow  => sub { my ($page, $count, $more) = @_;
    call('munmap', at($page + $count), $more * PAGE);
    call('mremap', at($page), $count * PAGE, ($count + $more) * PAGE, 0, 0) },
  # Cuts the mapping, unless the range is accessible as it was for writing.
  protect => sub { my ($page, $count, $writable) = @_; call('mprotect', at($page), $count * PAGE, $writable ? RW : RO) },
  # 1 if the kernel did it, else 0.
  advise => sub { my ($page, $count, $advice) = @_; return try_call('madvise', at($page), $count * PAGE, $advice) == -1 ? 0 : 1 },
  lock  => sub { my ($page, $count) = @_; call('mlock', at($page), $count * PAGE) },
  # A range of huge pages, of 512 pages each; 0 if the kernel has none.
  huge  => sub { my ($page, $count) = @_;
    return try_call('mmap', at($page), $count * PAGE, RW, ANONYMOUS | FIXED | HUGE, -1, 0) == -1 ? 0 : 1 },
  fork  => sub { my $child = fork(); die $! unless defined $child; $control = $_[0] if $child == 0 },
  # Forks so many children at once, which end when they have read the pages. Of how many they held the value, the next value, and so on.
  storm => sub {
    my ($children, $page, $count, $value) = @_;
    my @pids;
    for (1 .. $children) {
      my $child = fork();
      die $! unless defined $child;
      POSIX::_exit(scalar grep { value_at($page + $_) != $value + $_ } 0 .. $count - 1) if $child == 0;
      push @pids, $child;
    }
    return scalar grep { waitpid($_, 0) == $_ && $? == 0 } @pids;
  },
  # Has a context for asynchronous I/O from now on.
  asynchronous => sub { my $context = pack('Q', 0); call('io_setup', 8, unpack('Q', pack('P', $context))) },
  # Begins anew, as another program.
  exec  => sub { exec($^X, $0, $arena_pages, $used_pages) },
  exit  => sub { POSIX::_exit(0) },
);

say_line($arena / PAGE . " $$");
if (defined $socket_file) {
  hear();    # the images are there
  become_lazy();
  say_line('sent');
}
for (;;) {
  my ($command, @arguments) = split ' ', hear();
  my $answer = $commands{$command}->(map { 0 + $_ } @arguments);
  say_line($command =~ /^(read|touch|zero|move|advise|huge|storm)$/ ? $answer : 'done');
}
