//! Circles in a graph whose nodes are numbers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The nodes that every node leads to.
pub(super) type Graph = BTreeMap<usize, BTreeSet<usize>>;

/// The nodes that lead to each other, and a shortest circle among them.
pub(super) struct Component {
    pub(super) nodes: BTreeSet<usize>,
    pub(super) circle: Vec<usize>,
}

impl Component {
    /// The edges of the circle.
    pub(super) fn steps(&self) -> Vec<(usize, usize)> {
        let after = self.circle.iter().cycle().skip(1);
        let pairs = self.circle.iter().zip(after);
        pairs.map(|(&from, &to)| (from, to)).collect()
    }
}

pub(super) fn find(graph: &Graph) -> Vec<Component> {
    let reached: BTreeMap<usize, BTreeSet<usize>> = graph
        .keys()
        .map(|&node| (node, reach(graph, node)))
        .collect();
    let mut done = BTreeSet::new();
    let mut components = Vec::new();
    for (&node, nodes) in &reached {
        let is_back = |other: &&usize| reached.get(other).is_some_and(|back| back.contains(&node));
        let nodes: BTreeSet<usize> = nodes.iter().filter(is_back).copied().collect();
        if !nodes.is_empty() && !done.contains(&node) {
            done.extend(nodes.iter().copied());
            let circle = shortest(graph, &nodes);
            components.push(Component { nodes, circle });
        }
    }
    components
}

/// Every node at the end of a road from this one.
fn reach(graph: &Graph, start: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![start];
    while let Some(node) = open.pop() {
        for &next in graph.get(&node).into_iter().flatten() {
            if found.insert(next) {
                open.push(next);
            }
        }
    }
    found
}

fn shortest(graph: &Graph, nodes: &BTreeSet<usize>) -> Vec<usize> {
    let circles = nodes.iter().filter_map(|&node| circle_from(graph, node));
    circles.min_by_key(Vec::len).unwrap_or_default()
}

/// The shortest road from a node back to itself, without the node at its end.
fn circle_from(graph: &Graph, start: usize) -> Option<Vec<usize>> {
    let mut before: BTreeMap<usize, usize> = BTreeMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(node) = open.pop_front() {
        for &next in graph.get(&node).into_iter().flatten() {
            if next == start {
                let mut circle = vec![node];
                while let Some(&node) = circle.last().and_then(|node| before.get(node)) {
                    circle.push(node);
                }
                circle.reverse();
                return Some(circle);
            }
            before.entry(next).or_insert_with(|| {
                open.push_back(next);
                node
            });
        }
    }
    None
}
