// RocketMQ's Go client against a broker, checking itself. The arguments are the name server, the broker and a word that
// makes names new. Each line of the input is a command; each check prints "ok NAME" or "FAIL NAME: REASON", each command
// ends with "done". Between commands somebody else may kill, stop and start the servers.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

var (
	nameServer, broker, run string
	instances               int32
)

// instance names a client that shares its connections with no other.
func instance() string {
	return fmt.Sprintf("interop-%s-%d", run, atomic.AddInt32(&instances, 1))
}

func main() {
	nameServer, broker, run = os.Args[1], os.Args[2], os.Args[3]
	rlog.SetLogLevel("warn")
	commands := map[string]func(*check){
		"admin":     topics,
		"send":      sends,
		"consume":   consumes,
		"broadcast": broadcast,
		"orderly":   orderly,
		"pull":      pulls,
		"across":    acrossBegin,
		"restarted": acrossEnd,
	}
	halves := map[string]func(*check, []string){
		"peer-send":  peerSend,
		"peer-take":  peerTake,
		"peer-join":  peerJoin,
		"peer-owns":  peerOwns,
		"peer-leave": peerLeave,
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if run, known := commands[lines.Text()]; known {
			command(lines.Text(), run)
		} else if half, known := halves[words[0]]; known {
			command(lines.Text(), func(c *check) { half(c, words[1:]) })
		} else {
			fmt.Printf("FAIL %s: there is no such command\n", lines.Text())
		}
		fmt.Println("done")
	}
}

func command(name string, run func(*check)) {
	c := &check{}
	defer func() {
		if cause := recover(); cause != nil {
			c.that(false, "it could not go on: %v", cause)
			if c.name == "" {
				c.name = name
			}
		}
		// Half of a pair checks nothing itself.
		if c.name != "" {
			c.end()
		}
	}()
	run(c)
}
