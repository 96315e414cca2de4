// What the C programs beside measure of our runtime, measured of Go's: same work, same batches, same
// lines of output. One P.
package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"sort"
	"syscall"
	"time"
	"unsafe"
)

const (
	batches     = 20
	spawnAtOnce = 100
	parkAtOnce  = 100
)

var start = time.Now()

// Monotonic nanoseconds.
func now() int64 { return int64(time.Since(start)) }

func die(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// CPU time of the process, as cpu_ns of bench.h.
func cpu() int64 {
	var t syscall.Timespec
	const processCPU = 2 // CLOCK_PROCESS_CPUTIME_ID
	_, _, err := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, processCPU, uintptr(unsafe.Pointer(&t)), 0)
	if err != 0 {
		die(err)
	}
	return t.Nano()
}

// The median over the batches, each of which does ops/batches operations.
func measure(name string, ops int, batch func(ops int)) {
	ns := make([]float64, batches)
	for i := range ns {
		begin := cpu()
		batch(ops / batches)
		ns[i] = float64(cpu()-begin) / float64(ops/batches)
	}
	sort.Float64s(ns)
	fmt.Printf("%s %.2f\n", name, ns[batches/2])
}

// Runs both as goroutines and waits for their ends.
func both(a, b func()) {
	ended := make(chan bool, 2)
	go func() { a(); ended <- true }()
	go func() { b(); ended <- true }()
	<-ended
	<-ended
}

func yield(ops int) {
	one := func() {
		for i := 0; i < ops/2; i++ {
			runtime.Gosched()
		}
	}
	both(one, one)
}

func pingpong(ops int) {
	ping, pong := make(chan int), make(chan int)
	both(func() {
		for i := 0; i < ops; i++ {
			ping <- i
			<-pong
		}
	}, func() {
		for i := 0; i < ops; i++ {
			pong <- <-ping
		}
	})
}

var ended int

func spawn(ops int) {
	for n := 0; n < ops; n += spawnAtOnce {
		ended = 0
		for i := 0; i < spawnAtOnce; i++ {
			go func() { ended++ }()
		}
		for ended < spawnAtOnce {
			runtime.Gosched()
		}
	}
}

// As shuffled in bench.h.
func shuffled(i, n int) int { return i * 7368787 % n }

func timerStop(n int) {
	i := 0
	measure("timer-stop", n, func(ops int) {
		for end := i + ops; i < end; i++ {
			time.AfterFunc(time.Hour+time.Duration(shuffled(i, n)*1000), func() {}).Stop()
		}
	})
}

// NewTimer, which sends without a goroutine: the least that Go can do when a timer fires (AfterFunc
// starts a goroutine each and takes 10 times as long). The one that is due last fires last.
func timerFire(n int) {
	timers := make([]*time.Timer, n)
	var lastDue *time.Timer
	due := now() + int64(4*time.Second) // setting them takes less
	begin := cpu()
	var left int64
	for i := range timers {
		if i%256 == 0 { // NewTimer looks at the clock itself; once is enough
			left = due - now()
		}
		at := shuffled(i, n)
		timers[i] = time.NewTimer(time.Duration(left + int64(at)*1000000/int64(n)))
		if at == n-1 {
			lastDue = timers[i]
		}
	}
	set := cpu() - begin
	if now() > due {
		die(fmt.Errorf("too slow: timers came due while they were set"))
	}
	// The sleep may end late, and what fires then is not to be missed.
	time.Sleep(time.Duration(due - now() - 50000000))
	var last, offCPU, step int64
	for now() < due {
		begin = cpu()
		last = now()
		offCPU = last - begin
		runtime.Gosched()
	}
	for {
		t := now()
		gap := t - last
		last = t
		if gap > 50000 { // less the time that the kernel kept all of us away
			off := t - cpu()
			gap -= off - offCPU
			offCPU = off
		}
		if gap > step {
			step = gap
		}
		if len(lastDue.C) > 0 {
			break
		}
		runtime.Gosched()
	}
	fire := cpu() - begin
	fired := 0
	for _, t := range timers {
		fired += len(t.C)
	}
	if fired < n*99/100 { // the clock of the last 256 and of the first differ a little
		die(fmt.Errorf("only %d timers fired", fired))
	}
	eachSet, eachFire := float64(set)/float64(n), float64(fire)/float64(n)
	fmt.Printf("timer-set %.2f\ntimer-fire %.2f\ntimer-all %.2f\ntimer-step %.3f\n", eachSet, eachFire,
		eachSet+eachFire, float64(step)/1e6)
}

func echo() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	die(err)
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	for {
		c, err := l.Accept() // net sets TCP_NODELAY
		die(err)
		go func() {
			defer c.Close()
			buf := make([]byte, 4096)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if _, err = c.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}

func residentBytes() int64 {
	var total, resident int64
	f, err := os.Open("/proc/self/statm")
	die(err)
	defer f.Close()
	_, err = fmt.Fscan(f, &total, &resident)
	die(err)
	return resident * int64(os.Getpagesize())
}

func parked(n int) {
	never, count := make(chan bool), 0
	before := residentBytes()
	for i := 0; i < n; i += parkAtOnce {
		for k := 0; k < parkAtOnce; k++ {
			go func() { count++; <-never }()
		}
		for count < i+parkAtOnce {
			runtime.Gosched()
		}
	}
	fmt.Printf("parked %.0f\n", float64(residentBytes()-before)/float64(n))
}

func main() {
	runtime.GOMAXPROCS(1)
	what := ""
	if len(os.Args) == 2 {
		what = os.Args[1]
	}
	switch what {
	case "switch":
		measure("switch", 4000000, yield)
	case "pingpong":
		measure("pingpong", 1000000, pingpong)
	case "spawn":
		measure("spawn", 1000000, spawn)
	case "stop":
		timerStop(400000)
	case "fire":
		timerFire(1000000)
	case "echo":
		echo()
	case "parked":
		parked(100000)
	default:
		fmt.Fprintln(os.Stderr, "bench switch|pingpong|spawn|stop|fire|echo|parked")
		os.Exit(2)
	}
}
