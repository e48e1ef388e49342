package main

import "time"

// across is what runs while the broker is killed and comes back.
var across struct {
	group *group
	flow  *flow
	leave func()
}

func acrossBegin(c *check) {
	c.begin("before a kill: a producer and a consumer run")
	topic := newTopic(c, "across", 4)
	across.group = &group{}
	across.flow = newFlow(c, topic)
	across.leave = across.group.join(c, "one", topic, "*")
	c.within(told, func() bool { return len(across.group.keys("")) > 100 }, "nothing flows")
}

func acrossEnd(c *check) {
	c.begin("after a kill under load: they go on, and nothing acknowledged is missing")
	f, g := across.flow, across.group
	before := f.count()
	c.within(60*time.Second, func() bool { return f.count() > before+200 }, "no more is acknowledged")
	f.end()
	c.within(60*time.Second, func() bool { return f.missing(g.keys("")) == 0 }, "%v of %v acknowledged messages are missing",
		func() interface{} { return f.missing(g.keys("")) }, func() interface{} { return f.count() })
	across.leave()
}
