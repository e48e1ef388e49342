package main

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"
)

// check is a name and what is wrong with it: many comparisons, one line.
type check struct {
	name       string
	mutex      sync.Mutex
	complaints []string
}

// begin says what the check before has seen, and begins another.
func (c *check) begin(name string) {
	if c.name != "" {
		c.end()
	}
	c.name = name
}

func (c *check) that(holds bool, format string, args ...interface{}) {
	if !holds {
		c.mutex.Lock()
		c.complaints = append(c.complaints, fmt.Sprintf(format, args...))
		c.mutex.Unlock()
	}
}

func (c *check) same(what string, expected, seen interface{}) {
	c.that(reflect.DeepEqual(expected, seen), "%s is %v, not %v", what, seen, expected)
}

// must goes no further without this.
func (c *check) must(err error) {
	if err != nil {
		panic(err)
	}
}

// within polls until the condition holds.
func (c *check) within(limit time.Duration, condition func() bool, format string, args ...func() interface{}) {
	for end := time.Now().Add(limit); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			var values []interface{}
			for _, arg := range args {
				values = append(values, arg())
			}
			c.that(false, format, values...)
			return
		}
	}
}

func (c *check) end() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	switch shown := len(c.complaints); {
	case shown == 0:
		fmt.Println("ok", c.name)
	case shown > 5:
		fmt.Printf("FAIL %s: %s and %d more\n", c.name, strings.Join(c.complaints[:5], "; "), shown-5)
	default:
		fmt.Printf("FAIL %s: %s\n", c.name, strings.Join(c.complaints, "; "))
	}
	c.complaints = nil
}
